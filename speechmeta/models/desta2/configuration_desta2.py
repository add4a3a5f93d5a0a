"""Configuration of the DeSTA2 family: Whisper, a Q-Former connector and a Llama 3 decoder."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig

VARIANTS = ("desta2", "desta25")


@strict
class DestaConfig(PreTrainedConfig):
    """Configuration of `DestaForConditionalGeneration`.

    Attributes:
        audio_config: Whisper's config; its decoder transcribes, its encoder feeds the connector.
        text_config: the decoder's config, `llama`.
        variant: "desta2" or "desta25"; they differ in the prompt and in how layers are counted.
        tapped_states: which encoder states the connector reads. 0 is the sum of convolutions and
            positions, k the output of layer k.
        final_norm: whether the last state, if tapped, is taken after the encoder's final norm.
        prompt_size: learned queries per tapped state, which is also the number of rows that
            one window of audio becomes.
        qformer_layers: depth of the Q-Former.
        qformer_intermediate_size: width of its feed-forward layers.
        audio_token_id: the id that stands for one audio row in `input_ids`; never embedded.
            By default the first id past the embedding table.
        audio_locator: the mark in a message's text where an audio belongs (DeSTA2.5).
        placeholder_token: what the reference code fills audio positions with (DeSTA2.5).
        audio_name, text_name: where the published checkpoint takes Whisper and the decoder from.
    """

    model_type = "speechmeta_desta"
    sub_configs = {"audio_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012

    # Dicts or None when given, configs afterwards.
    audio_config: Any = None
    text_config: Any = None
    variant: str = "desta25"
    tapped_states: list[int] | None = None
    final_norm: bool = False
    prompt_size: int = 64
    qformer_layers: int = 6
    qformer_intermediate_size: int = 3072
    qformer_dropout: float = 0.1
    audio_token_id: Any = None
    audio_locator: str = "<|AUDIO|>"
    placeholder_token: str = "<|reserved_special_token_87|>"
    audio_name: str | None = None
    text_name: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.audio_config = _sub_config(self.audio_config, "whisper")
        self.text_config = _sub_config(self.text_config, "llama")
        if self.variant not in VARIANTS:
            raise ValueError(f"variant is {self.variant!r}; known are {', '.join(VARIANTS)}")
        if self.audio_config.model_type != "whisper":
            raise ValueError(f"the ear is a {self.audio_config.model_type!r} model, not Whisper")
        layers = self.audio_config.encoder_layers
        if self.tapped_states is None:
            self.tapped_states = [layers * (i + 1) // 4 for i in range(4)]
        if not self.tapped_states or not all(0 <= s <= layers for s in self.tapped_states):
            raise ValueError(
                f"tapped_states {self.tapped_states} do not fit an encoder of {layers} layers"
            )
        if self.prompt_size < 1 or self.qformer_layers < 1:
            raise ValueError("prompt_size and qformer_layers have to be at least 1")
        if self.audio_token_id is None:
            self.audio_token_id = self.text_config.vocab_size
        super().__post_init__(**kwargs)


def _sub_config(
    config: dict[str, Any] | PreTrainedConfig | None, default_type: str
) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    data = dict(config or {})
    result: PreTrainedConfig = AutoConfig.for_model(data.pop("model_type", default_type), **data)
    return result


__all__ = ["VARIANTS", "DestaConfig"]
