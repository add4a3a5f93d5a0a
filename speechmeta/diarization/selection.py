"""Which embedder tells the speakers of a call apart, by its name on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from speechmeta.diarization.embeddings import (
    PROJECTION_FILE,
    Embedder,
    EncoderEmbedder,
    SpeakerProjection,
    VerificationEmbedder,
)
from speechmeta.diarization.voiceprint import VoiceprintEmbedder
from speechmeta.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

VOICEPRINT = "voiceprint"
"""The name of the default: the package's own projection of the spectrum."""

ENCODER = "encoder"
"""The name of the encoder of the checkpoint that analyses the call."""

PACKAGED = Path(__file__).parents[1] / "checkpoints"
"""Where the projection of the voiceprint lies."""


def load_embedder(
    name: str | None,
    model: PreTrainedModel | None = None,
    processor: ProcessorMixin | None = None,
    local_files_only: bool = False,
) -> Embedder:
    """Loads an embedder.

    Args:
        name: None or `voiceprint` for the package's own; `encoder` for the encoder of
            `model`; else a hub id or folder of a speaker verification model.
        model, processor: the checkpoint that analyses the call.

    Raises:
        ModelError: it cannot be loaded, or the checkpoint has no encoder for it.
    """
    if name in (None, VOICEPRINT):
        own = SpeakerProjection.load(PACKAGED)
        if own is None:
            raise ModelError(f"{PACKAGED / PROJECTION_FILE} is missing", "install speechmeta again")
        return VoiceprintEmbedder(own)
    if name != ENCODER:
        return VerificationEmbedder(
            str(name), getattr(model, "device", None) or "cpu", local_files_only
        )
    if processor is None or model is None or getattr(model, "audio_tower", None) is None:
        raise ModelError(
            "this checkpoint has no encoder that gives speaker embeddings",
            "leave --speaker-model out, or name a speaker verification model",
        )
    folder = Path(str(getattr(model.config, "name_or_path", "") or ""))
    projection = SpeakerProjection.load(folder) if folder.is_dir() else None
    return EncoderEmbedder(model, processor, projection=projection)
