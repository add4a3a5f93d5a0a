"""`generate_meta` with the published checkpoints' signature, on our engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from speechmeta.audio.loading import load_audio
from speechmeta.decoding.audio_models import AudioModel
from speechmeta.decoding.engine import Engine
from speechmeta.decoding.options import DecodeOptions
from speechmeta.errors import ModelError, SpeechMetaError, UsageError
from speechmeta.models.speechllm.processing_speechllm import SAMPLE_RATE, SpeechLLMProcessor
from speechmeta.schema import FIELDS, SpeakerMeta

_NAMED_FIELDS = re.compile(r"\[([^\]]*)\]")


def fields_of(instruction: str | None) -> tuple[str, ...]:
    """The fields that an instruction names in square brackets; all six where it names none."""
    found = _NAMED_FIELDS.findall(instruction or "")
    names = {name.strip().lower() for part in found for name in part.split(",")}
    return tuple(field for field in FIELDS if field.lower() in names) or FIELDS


def generate_meta(
    model: AudioModel,
    audio_path: str | Path | None,
    audio_tensor: Any,
    instruction: str | None,
    max_new_tokens: int,
    return_special_tokens: bool,
) -> SpeakerMeta | str:
    """See `SpeechLLMForConditionalGeneration.generate_meta`."""
    if (audio_path is None) == (audio_tensor is None):
        raise UsageError("give either audio_path or audio_tensor", "one of them, not both")
    if audio_path is not None:
        wave = load_audio(audio_path).resampled(SAMPLE_RATE).mean(0)
    else:
        wave = np.asarray(audio_tensor, dtype=np.float32)
        wave = wave[0] if wave.ndim == 2 and len(wave) == 1 else wave
    processor = getattr(model, "processor", None)
    if not isinstance(processor, SpeechLLMProcessor):
        raise ModelError(
            "this model has no processor", "load it with speechmeta.load_model, which sets one"
        )
    options = DecodeOptions(max_transcript_tokens=max_new_tokens)
    record = Engine(model, processor, options).decode(
        [wave], fields=fields_of(instruction), instruction=instruction
    )[0]
    if isinstance(record, SpeechMetaError):
        raise record
    return record.text if return_special_tokens else record.to_meta(model.config.label_sets)
