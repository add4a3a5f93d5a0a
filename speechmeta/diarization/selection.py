"""Which embedder tells the speakers of a call apart, by its name on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from speechmeta.diarization.embeddings import (
    Embedder,
    EncoderEmbedder,
    SpeakerProjection,
    VerificationEmbedder,
)
from speechmeta.diarization.toolkits import is_nemo, is_pyannote, load_nemo, load_pyannote
from speechmeta.diarization.voice_encoder import VoiceEmbedder
from speechmeta.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

VOICEPRINT = "voiceprint"
"""The name of the default: the package's own voice encoder."""

PACKAGED = Path(__file__).parents[1] / "checkpoints" / "speakers.safetensors"
"""What `speechmeta train recipes/speakers/recipe.yaml` makes."""

ENCODER = "encoder"
"""The name of the encoder of the checkpoint that analyses the call."""


def load_embedder(
    name: str | None,
    model: PreTrainedModel | None = None,
    processor: ProcessorMixin | None = None,
    local_files_only: bool = False,
) -> Embedder:
    """Loads an embedder.

    Args:
        name: None or `voiceprint` for the package's own; `encoder` for the encoder of
            `model`; else a hub id or folder of a speaker verification model, of transformers,
            pyannote.audio or NeMo (see `diarization.toolkits`).
        model, processor: the checkpoint that analyses the call.

    Raises:
        ModelError: it cannot be loaded, or the checkpoint has no encoder for it.
    """
    if name is None or name == VOICEPRINT:
        return VoiceEmbedder.load(PACKAGED)
    if name != ENCODER and (is_pyannote(name) or is_nemo(name)):
        import torch

        load = load_pyannote if is_pyannote(name) else load_nemo
        device = torch.device(getattr(model, "device", None) or "cpu")
        return load(name, device, local_files_only)
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
