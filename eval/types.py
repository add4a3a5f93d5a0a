"""What a data set, a clip, a prediction and a record of a run are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from speechmeta.schema import FIELDS, LABEL_FIELDS

if TYPE_CHECKING:
    from speechmeta.audio.loading import Audio

Value = bool | str | None


@dataclass(frozen=True)
class Clip:
    """One recording with what its data set says about it.

    Attributes:
        id: unique in the data set; predictions and reports name the clip by it.
        audio: the file. It need not exist: a missing file is an error of the run, counted.
        dataset: the source that it belongs to, for the table by source.
        speaker: id within the source; None where unknown.
        duration: seconds, None where only decoding would tell.
        speech: whether there is speech; None where the data set does not say.
        transcript: as the data set has it; None where there is none.
        labels: the known label fields in this project's classes.
        groups: further names to group results by, such as the session.
        source_labels: by label field, the value as a manifest has it, for systems that bring
            other classes.
    """

    id: str
    audio: Path
    dataset: str
    speaker: str | None = None
    duration: float | None = None
    speech: bool | None = None
    transcript: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    source_labels: Mapping[str, str] = field(default_factory=dict)

    def reference(self) -> dict[str, Value]:
        """The known fields, by their JSON names."""
        known: dict[str, Value] = {}
        if self.speech is not None:
            known["SpeechActivity"] = self.speech
        if self.transcript is not None:
            known["Transcript"] = self.transcript
        known.update({name: self.labels[name] for name in LABEL_FIELDS if name in self.labels})
        return known


@dataclass(frozen=True)
class Dataset:
    """Clips of one split, and how their labels came about.

    Attributes:
        name: the reader's name.
        source: the folder or file, as the caller gave it.
        split: the split's name, None where there are none.
        clips: in the data set's own order.
        mapping: by label field, how many source labels were mapped, and what was not
            (`LabelMapper.report`).
        notes: what a reader of the numbers has to know, one sentence each.
        classes: label fields whose classes the protocol restricts. A prediction is then the
            most probable of these classes.
        folds: name of the group of the protocol's folds, None where there are none.
    """

    name: str
    source: str
    split: str | None
    clips: Sequence[Clip]
    mapping: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    folds: str | None = None


@dataclass(frozen=True)
class Prediction:
    """What a system said about one clip.

    Attributes:
        values: by field; a field that the system does not give is absent, an abstained label
            is None.
        probabilities: by label field, the distribution over its classes, where the system
            has one.
        output: the JSON as the system delivered it; None for systems that write none.
        flags: remarks of the decoder, such as `transcript_truncated`.
        error: why there is no result; the values are then not looked at.
        seconds: time that this clip took, where the system knows better than the clock
            around the batch.
    """

    values: Mapping[str, Value] = field(default_factory=dict)
    probabilities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    output: str | None = None
    flags: tuple[str, ...] = ()
    error: str | None = None
    seconds: float | None = None


@runtime_checkable
class Predictor(Protocol):
    """A system under test."""

    def describe(self) -> dict[str, Any]:
        """JSON-ready facts for the report; `name` and `fields` (what it predicts) at least."""
        ...

    def predict(self, audios: Sequence[Audio]) -> Sequence[Prediction]:
        """One prediction per recording, in the same order."""
        ...


@runtime_checkable
class ClipPredictor(Protocol):
    """A system that needs to see the clips themselves, not only their sound."""

    needs_audio: bool

    def describe(self) -> dict[str, Any]: ...

    def predict_clips(
        self, clips: Sequence[Clip], audios: Sequence[Audio | None]
    ) -> Sequence[Prediction]:
        """One prediction per clip; the audios are None where `needs_audio` is false."""
        ...


AnyPredictor = Predictor | ClipPredictor


@dataclass(frozen=True)
class Record:
    """One line of a run's journal: a clip, its reference and what was predicted."""

    id: str
    audio: str
    dataset: str
    speaker: str | None
    duration: float | None
    seconds: float
    reference: dict[str, Value]
    prediction: dict[str, Value]
    probabilities: dict[str, dict[str, float]] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    output: str | None = None
    flags: tuple[str, ...] = ()
    error: str | None = None

    @classmethod
    def of(
        cls, clip: Clip, prediction: Prediction, duration: float | None, seconds: float
    ) -> Record:
        """The record of a clip; `duration` and `seconds` as measured by the run."""
        failed = prediction.error is not None
        return cls(
            id=clip.id,
            audio=str(clip.audio),
            dataset=clip.dataset,
            speaker=clip.speaker,
            duration=clip.duration if duration is None else duration,
            seconds=seconds if prediction.seconds is None else prediction.seconds,
            reference=clip.reference(),
            prediction={}
            if failed
            else {name: prediction.values[name] for name in FIELDS if name in prediction.values},
            probabilities={}
            if failed
            else {key: dict(value) for key, value in prediction.probabilities.items()},
            groups=dict(clip.groups),
            output=prediction.output,
            flags=tuple(prediction.flags),
            error=prediction.error,
        )

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        data["flags"] = list(self.flags)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        return cls(**{**data, "flags": tuple(data.get("flags", ()))})

    @property
    def unit(self) -> str:
        """The resampling unit of the bootstrap: the speaker, or the clip where unknown."""
        return f"{self.dataset}\n{self.speaker}" if self.speaker else f"{self.dataset}\n\n{self.id}"
