"""The exact text that a checkpoint was trained to write and the prompt it was trained to read.

A grammar that forced another key order, spacing or case would push a model off its
training distribution, so all of these are data of the checkpoint (`config.layout`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from speechmeta.errors import ModelError
from speechmeta.schema import FIELDS

SPEECH_VALUES = {"True": True, "False": False}
"""How SpeechActivity is written, and what it means."""


@dataclass(frozen=True)
class TextLayout:
    """One checkpoint's way to write its answer, and its prompt.

    The answer is `opening + separator.join(key_open + key + key_close + value +
    value_close) + closing`.

    Attributes:
        order: the fields in the order in which they are written; a field that is not
            asked for is left out.
        opening, key_open, key_close, value_close, separator, closing: the fixed text.
        transcript_lead: text that a transcript that is not empty begins with, and that is
            no part of it: a tokenizer that marks word starts by a space then writes the
            first word with the same token as any other.
        label_cases: how label values may be written, `exact` as in the label set, `lower`
            in lower case. With several, the probabilities of the variants add up.
        ends_without_speech: the answer closes directly after SpeechActivity "False".
        prompt_before: text before the audio; `{instruction}` is replaced.
        prompt_after: texts after the audio, each tokenized by itself.
        instruction: the default instruction; `{fields}` is replaced by the asked fields.
            Empty: the checkpoint was trained without instructions and takes none.
    """

    order: tuple[str, ...] = FIELDS
    opening: str = "{"
    key_open: str = '"'
    key_close: str = '": "'
    value_close: str = '"'
    separator: str = ", "
    closing: str = "}"
    transcript_lead: str = ""
    label_cases: tuple[str, ...] = ("exact",)
    ends_without_speech: bool = False
    prompt_before: str = "{instruction}<speech>"
    prompt_after: tuple[str, ...] = ("</speech>",)
    instruction: str = ""

    def __post_init__(self) -> None:
        # JSON has no tuples: a config that was saved comes back with lists.
        for name in ("order", "label_cases", "prompt_after"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if sorted(self.order) != sorted(FIELDS):
            raise ModelError(
                f"the checkpoint's layout orders {', '.join(self.order)}",
                f"it has to name each of {', '.join(FIELDS)} once",
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Reads `config.layout`.

        Raises:
            ModelError: a key is not known.
        """
        unknown = sorted(set(data) - set(cls.__dataclass_fields__))
        if unknown:
            raise ModelError(
                f"the checkpoint's layout has unknown keys {', '.join(unknown)}",
                "it may need a newer speechmeta",
            )
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """The layout as JSON-ready data for `config.layout`."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    def arrange(self, fields: Iterable[str]) -> tuple[str, ...]:
        """The given fields in the order in which this checkpoint writes them."""
        asked = set(fields)
        return tuple(field for field in self.order if field in asked)

    def before_value(self, fields: Iterable[str], index: int) -> str:
        """The fixed text between the value before and the value of the index-th field."""
        key = self.key_open + self.arrange(fields)[index] + self.key_close
        return self.opening + key if index == 0 else self.value_close + self.separator + key

    @property
    def after_last(self) -> str:
        """The fixed text after the last value."""
        return self.value_close + self.closing

    def render(self, values: Mapping[str, str]) -> str:
        """The whole answer for values as they are written, without escaping."""
        fields = self.arrange(values)
        parts = [self.before_value(fields, i) + values[field] for i, field in enumerate(fields)]
        return "".join(parts) + self.after_last

    def instruction_for(self, fields: Iterable[str]) -> str:
        """The default instruction that asks for these fields."""
        return self.instruction.replace("{fields}", ", ".join(self.arrange(fields)))


PUBLISHED_LAYOUT = TextLayout(
    order=("SpeechActivity", "Transcript", "Gender", "Emotion", "Age", "Accent"),
    key_open='  "',
    closing=", }",
    label_cases=("lower", "exact"),
    prompt_before="Instruction:\n{instruction}\n\nInput: \n<speech>",
    prompt_after=("</speech>\n\nOutput:", "\n<s>"),
    instruction="Give me the following information about the audio [{fields}]",
)
"""What `skit-ai/speechllm-*` read and write: SpeechLLM's `dataset.py` (the answer, with its
trailing comma) and `huggingface/hf_repo/model.py` (the prompt) at f44d361."""

COMPACT_LAYOUT = TextLayout(
    order=("SpeechActivity", "Gender", "Age", "Accent", "Emotion", "Transcript"),
    transcript_lead=" ",
    ends_without_speech=True,
)
"""What checkpoints trained by this project write: labels come before the transcript, so
that they are read off the audio and not off what a small model believes was said."""
