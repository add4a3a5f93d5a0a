"""DeSTA2 and DeSTA2.5-Audio: Whisper, a Q-Former and Llama 3, for chat about recordings."""

from speechmeta.models.desta2.configuration_desta2 import DestaConfig
from speechmeta.models.desta2.modeling_desta2 import DestaForConditionalGeneration
from speechmeta.models.desta2.processing_desta2 import DestaProcessor

__all__ = ["DestaConfig", "DestaForConditionalGeneration", "DestaProcessor"]
