"""The options of a measurement, each stated once; `evaluate` and the command are filled in here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from speechmeta.errors import UsageError
from speechmeta.schema import check_fields
from speechmeta.settings import Options, option

DATA = "Data"
MEASURE = "Measures"
OUTPUT = "Output"

NormalizerName = Literal["whisper-english", "whisper-basic", "lower", "none"]


class EvalOptions(Options):
    """What is measured, on which part of the data, and how.

    Raises:
        UsageError: an option is not known, cannot take its value, or contradicts another.
    """

    limit: int | None = option(None, "Only the first N clips.", unset="all", panel=DATA, ge=1)
    sample: int | None = option(
        None,
        "Only N clips, drawn by their names: always the same ones, and those of a smaller draw are "
        "among those of a larger one.",
        unset="all",
        panel=DATA,
        ge=1,
    )
    classes: int | None = option(
        None,
        "iemocap: the protocol of 4 classes, or of 5 with Frustrated.",
        unset="4",
        panel=DATA,
    )
    fields: tuple[str, ...] | None = option(
        None,
        "Fields to ask the model for: SpeechActivity, Transcript, Gender, Age, Accent, Emotion.",
        unset="all that the model gives",
        metavar="NAME,...",
        panel=OUTPUT,
    )
    min_confidence: float | None = option(
        None,
        "Labels less probable than this (0 to 1) become null.",
        unset="0, whatever the checkpoint says",
        panel=OUTPUT,
        ge=0.0,
        le=1.0,
    )
    normalizer: NormalizerName = option(
        "whisper-english",
        "Normalisation of both texts before words are compared.",
        panel=MEASURE,
    )
    spelling_map: Path | None = option(
        None,
        "JSON file of British to American spellings for whisper-english.",
        unset="none",
        metavar="FILE",
        panel=MEASURE,
    )
    ignore_abstained: bool = option(
        False,
        "Leave null labels out of the accuracies instead of counting them wrong.",
        panel=MEASURE,
    )
    teacher_forced: bool = option(
        False,
        "A diagnostic: the published table's protocol, argmax after the gold prefix. Not what the "
        "model does in use.",
        panel=MEASURE,
    )
    telephone: bool = option(
        False,
        "Send every clip through a simulated telephone line: 8 kHz, 300 to 3400 Hz, G.711.",
        panel=MEASURE,
    )

    note: str | None = option(
        None,
        "A remark for the report, such as what else the machine was doing.",
        unset="none",
        panel=OUTPUT,
    )

    @field_validator("fields", mode="before")
    @classmethod
    def _known_fields(cls, value: Any) -> Any:
        return value if value is None else check_fields(value)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.limit is not None and self.sample is not None:
            raise UsageError("limit and sample both choose the clips", "give one of them")
        if self.teacher_forced and (
            self.fields is not None or self.min_confidence is not None or self.ignore_abstained
        ):
            raise UsageError(
                "the teacher-forced protocol has no fields, min_confidence or ignore_abstained",
                "leave them out",
            )
        return self

    @classmethod
    def of(cls, options: EvalOptions | None, overrides: dict[str, Any]) -> EvalOptions:
        """`options` (None for the defaults) with single ones replaced, checked."""
        chosen: EvalOptions = (options or cls()).updated(overrides)
        return chosen
