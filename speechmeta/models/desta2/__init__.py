"""DeSTA2 and DeSTA2.5-Audio: Whisper, a Q-Former and Llama 3, for chat about recordings."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoProcessor

from speechmeta.models.desta2.configuration_desta2 import DestaConfig
from speechmeta.models.desta2.modeling_desta2 import DestaForConditionalGeneration
from speechmeta.models.desta2.processing_desta2 import DestaProcessor

AutoConfig.register("speechmeta_desta", DestaConfig, exist_ok=True)
AutoModel.register(DestaConfig, DestaForConditionalGeneration, exist_ok=True)
AutoProcessor.register(DestaConfig, DestaProcessor, exist_ok=True)

__all__ = ["DestaConfig", "DestaForConditionalGeneration", "DestaProcessor"]
