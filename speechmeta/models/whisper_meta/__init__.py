"""Whisper with label heads in transformers' conventions, registered with its Auto classes."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForSpeechSeq2Seq, AutoProcessor

from speechmeta.models.whisper_meta.configuration_whisper_meta import WhisperMetaConfig
from speechmeta.models.whisper_meta.modeling_whisper_meta import (
    EncoderStates,
    WhisperMetaForConditionalGeneration,
)
from speechmeta.models.whisper_meta.processing_whisper_meta import WhisperMetaProcessor

AutoConfig.register("whisper_meta", WhisperMetaConfig, exist_ok=True)
AutoModel.register(WhisperMetaConfig, WhisperMetaForConditionalGeneration, exist_ok=True)
AutoModelForSpeechSeq2Seq.register(
    WhisperMetaConfig, WhisperMetaForConditionalGeneration, exist_ok=True
)
AutoProcessor.register(WhisperMetaConfig, WhisperMetaProcessor, exist_ok=True)

__all__ = [
    "EncoderStates",
    "WhisperMetaConfig",
    "WhisperMetaForConditionalGeneration",
    "WhisperMetaProcessor",
]
