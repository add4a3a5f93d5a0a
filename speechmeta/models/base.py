"""What the pipeline needs of a model, whatever its family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from speechmeta.decoding.record import DecodedRecord, TimedWord
from speechmeta.errors import SpeechMetaError, UsageError
from speechmeta.schema import LabelSets, ModelInfo, check_fields

Waveform = npt.NDArray[np.float32]


class SpeechModel(Protocol):
    """A loaded checkpoint that takes waveforms to records.

    Attributes:
        info: the model as it appears in a report.
        fields: what it gives, in the schema's order.
        label_sets: the values that each label can take.
        thresholds: by label field, the probability below which the checkpoint abstains.
        max_seconds: the longest waveform that it takes at once.
        batch_size: waveforms that it decodes together.
        gives_words: whether it can tell the times of words.
    """

    @property
    def info(self) -> ModelInfo: ...

    @property
    def fields(self) -> tuple[str, ...]: ...

    @property
    def label_sets(self) -> LabelSets: ...

    @property
    def thresholds(self) -> Mapping[str, float]: ...

    @property
    def max_seconds(self) -> float: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def gives_words(self) -> bool: ...

    def decode(
        self,
        waveforms: Sequence[Waveform],
        fields: Sequence[str] | None = None,
        instruction: str | None = None,
        word_times: bool = False,
    ) -> list[DecodedRecord | SpeechMetaError]:
        """Decodes waveforms (samples,) at 16 kHz, each no longer than `max_seconds`.

        Args:
            fields: of those that the model gives; None for all of them.
            instruction: the prompt's wording, for models that take one.
            word_times: give the records the times of their words.

        Returns:
            In the order of the waveforms, a record or the error that kept it from being one.

        Raises:
            UsageError: a field is not known or not given, or the model takes no instruction.
            ModelError: the model cannot tell the times of words.
        """
        ...


@runtime_checkable
class Drafted(Protocol):
    """A model that writes a transcript sooner where it is given what most of it will be."""

    @property
    def takes_drafts(self) -> bool:
        """Whether it does as it was loaded."""
        ...

    def decode(
        self,
        waveforms: Sequence[Waveform],
        fields: Sequence[str] | None = None,
        instruction: str | None = None,
        word_times: bool = False,
        drafts: Sequence[str | None] | None = None,
    ) -> list[DecodedRecord | SpeechMetaError]:
        """As `SpeechModel.decode`.

        Args:
            drafts: for each waveform, what its transcript may begin with. It is checked, and
                changes nothing but the time that the transcript takes.
        """
        ...


@runtime_checkable
class Aligner(Protocol):
    """A model that finds the words of a text that it did not write."""

    def align(
        self, waveforms: Sequence[Waveform], texts: Sequence[str]
    ) -> list[list[TimedWord] | None]:
        """When the words of texts are said.

        Args:
            waveforms: (samples,) at 16 kHz, each no longer than the model's `max_seconds`.
            texts: of each, not empty.

        Returns:
            In their order, words with times from the start of the waveform; None where they
            could not be found.

        Raises:
            AudioError: a waveform is longer than that, or holds no samples.
        """
        ...


def given_fields(model: SpeechModel, fields: Sequence[str] | None) -> tuple[str, ...]:
    """The fields that are asked of a model, in the schema's order; None for all that it gives.

    Raises:
        UsageError: one is not known, or the model does not give it.
    """
    if fields is None:
        return model.fields
    asked = check_fields(fields)
    missing = [field for field in asked if field not in model.fields]
    if missing:
        raise UsageError(
            f"the model {model.info.name} does not give {', '.join(missing)}, only "
            + ", ".join(model.fields),
            "the bundled model gives all six: leave --model out, or name bundled",
        )
    return asked


@runtime_checkable
class SpeechJudge(Protocol):
    """A model that may have a head for SpeechActivity, which says of sound whether it is speech."""

    @property
    def judges_speech(self) -> bool:
        """Whether it has that head."""
        ...

    def speech_probabilities(self, waveforms: Sequence[Waveform]) -> list[float | None]:
        """How probable speech is in each waveform, by the head alone.

        Args:
            waveforms: (samples,) at 16 kHz, each no longer than the model's `max_seconds`.

        Returns:
            In their order, 0 to 1; None for one that could not be encoded.

        Raises:
            UsageError: it has no such head.
        """
        ...


@runtime_checkable
class Instructable(Protocol):
    """A model that can be told of a recording what Whisper is told."""

    def told(self, language: str | None, hotwords: str | None) -> SpeechModel:
        """The same model, weights and all, that expects this language and these names; None
        leaves what it was loaded with.

        Raises:
            UsageError: it does not know the language, or takes no hotwords.
        """
        ...


def told(model: SpeechModel, language: str | None, hotwords: str | None) -> SpeechModel:
    """`model` as it hears a recording of which more is known; see `Instructable`.

    Raises:
        UsageError: the model takes no language or hotwords, or does not know the language.
    """
    if language is None and hotwords is None:
        return model
    if isinstance(model, Instructable):
        return model.told(language, hotwords)
    what = "language" if hotwords is None else "hotwords"
    raise UsageError(f"the model {model.info.name} takes no {what}", "leave it out")


__all__ = [
    "Aligner",
    "Drafted",
    "Instructable",
    "SpeechJudge",
    "SpeechModel",
    "Waveform",
    "given_fields",
    "told",
]
