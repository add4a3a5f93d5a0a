"""Configuration of the SpeechLLM family: audio encoder, CNN connector, Llama decoder."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig

from speechmeta.decoding.layout import TextLayout
from speechmeta.schema import DEFAULT_LABEL_SETS

AUDIO_ENCODERS = ("hubert", "wavlm")


@strict
class SpeechLLMConfig(PreTrainedConfig):
    """Configuration of `SpeechLLMForConditionalGeneration`.

    Attributes:
        audio_config: the encoder's config, `hubert` or `wavlm`.
        text_config: the decoder's config, `llama`.
        audio_token_id: the id that stands for one audio position in `input_ids`. It is never
            embedded; by default the first id past the embedding table, so that no
            vocabulary entry of a published decoder has to be given up.
        connector_kernel_size: kernel of the connector's three convolutions.
        connector_stride: stride of the second of them.
        label_sets: the values of each label field, in the order in which they are shown.
        layout: the text layout (`speechmeta.decoding.layout.TextLayout`) as a dict.
        abstain_below: labels less probable than this are left out unless the user says otherwise.
    """

    model_type = "speechllm"
    sub_configs = {"audio_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012

    # A config, or a dict that becomes one.
    audio_config: Any = None
    text_config: Any = None
    audio_token_id: int | None = None
    connector_kernel_size: int = 5
    connector_stride: int = 2
    label_sets: dict[str, list[str]] | None = None
    layout: dict[str, Any] | None = None
    abstain_below: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        self.audio_config = _sub_config(self.audio_config, "hubert")
        self.text_config = _sub_config(self.text_config, "llama")
        if self.audio_config.model_type not in AUDIO_ENCODERS:
            raise ValueError(
                f"the audio encoder is a {self.audio_config.model_type!r} model; "
                f"known are {', '.join(AUDIO_ENCODERS)}"
            )
        if self.audio_token_id is None:
            self.audio_token_id = self.text_config.vocab_size
        if self.label_sets is None:
            self.label_sets = {field: list(labels) for field, labels in DEFAULT_LABEL_SETS.items()}
        if not isinstance(self.label_sets, dict) or not all(
            isinstance(labels, (list, tuple)) and labels and all(isinstance(x, str) for x in labels)
            for labels in self.label_sets.values()
        ):
            raise ValueError("label_sets has to name lists of labels")
        if self.layout is None:
            self.layout = TextLayout().to_dict()
        super().__post_init__(**kwargs)


def _sub_config(
    config: dict[str, Any] | PreTrainedConfig | None, default_type: str
) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    data = dict(config or {})
    result: PreTrainedConfig = AutoConfig.for_model(data.pop("model_type", default_type), **data)
    return result
