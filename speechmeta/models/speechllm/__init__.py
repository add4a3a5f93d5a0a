"""The SpeechLLM family in transformers' conventions, registered with its Auto classes."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoProcessor

from speechmeta.models.speechllm.configuration_speechllm import SpeechLLMConfig
from speechmeta.models.speechllm.convert import convert_checkpoint
from speechmeta.models.speechllm.loading import load_model
from speechmeta.models.speechllm.modeling_speechllm import (
    AudioFeatures,
    SpeechLLMForConditionalGeneration,
)
from speechmeta.models.speechllm.processing_speechllm import SpeechLLMProcessor

AutoConfig.register("speechllm", SpeechLLMConfig, exist_ok=True)
AutoModel.register(SpeechLLMConfig, SpeechLLMForConditionalGeneration, exist_ok=True)
AutoProcessor.register(SpeechLLMConfig, SpeechLLMProcessor, exist_ok=True)

__all__ = [
    "AudioFeatures",
    "SpeechLLMConfig",
    "SpeechLLMForConditionalGeneration",
    "SpeechLLMProcessor",
    "convert_checkpoint",
    "load_model",
]
