"""Configuration of the Whisper family with label heads: `whisper_meta`."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.whisper.configuration_whisper import WhisperConfig

from speechmeta.schema import DEFAULT_LABEL_SETS, FIELDS, LABEL_FIELDS

SPEECH_LABELS = ("true", "false")
"""The labels of a SpeechActivity head."""

WORDS_ONLY = ("SpeechActivity", "Transcript")
"""What a Whisper checkpoint without heads gives."""


@strict
class WhisperMetaConfig(PreTrainedConfig):
    """Configuration of `WhisperMetaForConditionalGeneration`.

    The config of a plain Whisper checkpoint (`model_type` "whisper") loads as one without heads
    whose input is padded to 30 s.

    Attributes:
        whisper_config: transformers' `WhisperConfig`, or a dict that becomes one.
        variable_length: whether the encoder was tuned to hear a clip without the padding to
            Whisper's 30 s (futo-org/whisper-acft).
        trailing_silence: seconds of zeros that every clip gets behind it, as in tuning.
        min_seconds: shorter clips are padded with zeros to it.
        heads: sets of label heads by name, each `{"file": NAME.safetensors, "fields": {FIELD:
            {"labels": [...], "temperature": 1.0, "prior": {LABEL: share}, "abstain_below": 0.0,
            "short": {"seconds": 1.0, "temperature": 1.5, "abstain_below": 0.6}}}, "data": [...],
            "licence": "..."}`; what stands under `short` holds for clips shorter than that.
        default_heads: the set that is loaded unless another is named; None for none.
        language: the language that is decoded unless another is named, such as "en"; None: it is
            detected, where the checkpoint knows several.
        quantization: how `model.safetensors` stores its matrices; absent where as they are.
        no_speech_taught: whether tuning taught `<|nospeech|>` for clips without speech, so that
            its probability can be taken at its word.
        licence: of the weights, as an SPDX identifier.
    """

    model_type = "whisper_meta"
    sub_configs = {"whisper_config": WhisperConfig}  # noqa: RUF012

    whisper_config: Any = None
    variable_length: bool = False
    trailing_silence: float = 0.0
    min_seconds: float = 0.0
    heads: dict[str, Any] | None = None
    default_heads: str | None = None
    language: str | None = None
    quantization: dict[str, Any] | None = None
    no_speech_taught: bool = False
    licence: str | None = None
    is_encoder_decoder: bool = True
    # The inner model ties its own; the outer class has nothing to tie.
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        given = self.whisper_config
        if not isinstance(given, PreTrainedConfig):
            data = dict(given or {})
            kind = data.pop("model_type", "whisper")
            if kind != "whisper":
                raise ValueError(f"whisper_config is a {kind!r} config, not Whisper's")
            self.whisper_config = WhisperConfig(**data)
        if self.trailing_silence < 0 or self.min_seconds < 0:
            raise ValueError("trailing_silence and min_seconds cannot be negative")
        if self.default_heads is not None and self.default_heads not in (self.heads or {}):
            raise ValueError(
                f"default_heads is {self.default_heads!r}; there are {', '.join(self.heads or {})}"
            )
        for name, head_set in (self.heads or {}).items():
            _check_heads(name, head_set)
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As transformers has it; a plain Whisper config comes back wrapped."""
        data, rest = super().get_config_dict(*args, **kwargs)
        return wrapped(data), rest

    def head_labels(self, name: str | None) -> dict[str, list[str]]:
        """The labels of each field that a set of heads gives; none for None."""
        if name is None:
            return {}
        fields = (self.heads or {})[name]["fields"]
        # In the schema's order: the keys of a config are sorted when it is saved.
        return {field: list(fields[field]["labels"]) for field in FIELDS if field in fields}

    def fields_with(self, name: str | None) -> tuple[str, ...]:
        """The fields that the checkpoint gives with a set of heads, in the schema's order."""
        given = {*WORDS_ONLY, *self.head_labels(name)}
        return tuple(field for field in FIELDS if field in given)

    def label_sets_with(self, name: str | None) -> dict[str, list[str]]:
        """The values that each label field can take."""
        labels = self.head_labels(name)
        return {field: labels.get(field, DEFAULT_LABEL_SETS[field]) for field in LABEL_FIELDS}


def wrapped(data: dict[str, Any]) -> dict[str, Any]:
    """A plain Whisper config as the config of this family; any other as it is."""
    if data.get("model_type") != "whisper":
        return data
    outer: dict[str, Any] = {
        key: data[key] for key in ("dtype", "torch_dtype", "transformers_version") if key in data
    }
    return {"model_type": WhisperMetaConfig.model_type, "whisper_config": data, **outer}


def _check_heads(name: str, head_set: Any) -> None:
    """Raises ValueError where a set of heads is not as documented."""
    try:
        fields = {field: list(item["labels"]) for field, item in head_set["fields"].items()}
        file = str(head_set["file"])
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"the heads {name!r} lack file, fields or labels: {error}") from error
    if not file.endswith(".safetensors") or "/" in file or "\\" in file:
        raise ValueError(f"the heads {name!r} name the file {file!r}, not a .safetensors beside")
    for field, labels in fields.items():
        if field == "SpeechActivity":
            known = list(SPEECH_LABELS)
            if sorted(labels) != sorted(known):
                raise ValueError(f"the heads {name!r} have {labels} for SpeechActivity")
        elif field not in LABEL_FIELDS:
            raise ValueError(f"the heads {name!r} give {field!r}, which is not a label field")
        elif len(labels) < 2:
            raise ValueError(f"the heads {name!r} have {len(labels)} labels for {field}")
        item = head_set["fields"][field]
        short = item.get("short") or {"seconds": 0.0}
        if "seconds" not in short:
            raise ValueError(f"the heads {name!r} do not say which clips are short for {field}")
        if not min(item.get("temperature", 1.0), short.get("temperature", 1.0)) > 0:
            raise ValueError(f"the heads {name!r} have a temperature for {field} not above 0")
        if any(not share > 0 for share in (item.get("prior") or {}).values()):
            raise ValueError(f"the heads {name!r} have a prior for {field} not above 0")


__all__ = ["SPEECH_LABELS", "WORDS_ONLY", "WhisperMetaConfig"]
