"""Types of every result: labels, `SpeakerMeta`, `Turn`, `CallReport`, and their JSON Schema.

Knows nothing of audio or models, and imports neither torch nor transformers.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    PlainSerializer,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from speechmeta.errors import UsageError

if TYPE_CHECKING:
    import pandas

SCHEMA_VERSION = "1.1"


def _as_unicode(text: str) -> str:
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a pair, which is not a byte of a name
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


# Names of files and roles need not be UTF-8, JSON has to be: in it their odd bytes read \xNN.
_FileText = Annotated[str, PlainSerializer(_as_unicode, return_type=str, when_used="json")]


class Gender(StrEnum):
    FEMALE = "Female"
    MALE = "Male"


class Age(StrEnum):
    """Young is under 30, Middle-Age 30 to 59, Senior from 60 years."""

    YOUNG = "Young"
    MIDDLE_AGE = "Middle-Age"
    SENIOR = "Senior"


class Accent(StrEnum):
    AFRICA = "Africa"
    AMERICA = "America"
    CELTIC = "Celtic"
    EUROPE = "Europe"
    OCEANIA = "Oceania"
    SOUTH_ASIA = "South-Asia"
    SOUTH_EAST_ASIA = "South-East-Asia"


class Emotion(StrEnum):
    HAPPY = "Happy"
    SAD = "Sad"
    ANGER = "Anger"
    NEUTRAL = "Neutral"
    FRUSTRATED = "Frustrated"


FIELDS = ("SpeechActivity", "Transcript", "Gender", "Age", "Accent", "Emotion")
"""The six fields, in the order in which they are written."""

LABEL_FIELDS = ("Gender", "Age", "Accent", "Emotion")
"""The fields whose value is one of a closed set."""

LabelSets = Mapping[str, Sequence[str]]

DEFAULT_LABEL_SETS: dict[str, list[str]] = {
    "Gender": [item.value for item in Gender],
    "Age": [item.value for item in Age],
    "Accent": [item.value for item in Accent],
    "Emotion": [item.value for item in Emotion],
}


def check_fields(fields: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the asked fields in schema order; None asks for all six.

    Raises:
        UsageError: a name is not a field, or none was given.
    """
    if fields is None:
        return FIELDS
    if isinstance(fields, str):
        fields = [name.strip() for name in fields.split(",") if name.strip()]
    known = {name.lower(): name for name in FIELDS}
    unknown = [name for name in fields if name.lower() not in known]
    if unknown:
        raise UsageError(
            f"unknown field {', '.join(map(repr, unknown))}", f"choose from {', '.join(FIELDS)}"
        )
    asked = {known[name.lower()] for name in fields}
    if not asked:
        raise UsageError("no field was asked for", f"choose from {', '.join(FIELDS)}")
    return tuple(name for name in FIELDS if name in asked)


def threshold_of(field: str, threshold: float | Mapping[str, float]) -> float:
    """The threshold of one field, from one for all or from one by field (0 where it has none)."""
    return threshold.get(field, 0.0) if isinstance(threshold, Mapping) else threshold


def meta_properties(label_sets: LabelSets = DEFAULT_LABEL_SETS) -> dict[str, Any]:
    """The six fields as properties of a JSON Schema, for a checkpoint's label sets."""
    return {
        "SpeechActivity": {"type": "boolean", "description": "Whether anyone speaks."},
        "Transcript": {
            "type": "string",
            "description": "What is said; empty where SpeechActivity is false.",
        },
        **{
            field: {
                "type": ["string", "null"],
                "enum": [*label_sets[field], None],
                "description": "null where nobody speaks, or where the model is not sure enough.",
            }
            for field in LABEL_FIELDS
        },
    }


NOTHING_WITHOUT_SPEECH: dict[str, Any] = {
    "if": {"properties": {"SpeechActivity": {"const": False}}, "required": ["SpeechActivity"]},
    "then": {
        "properties": {
            "Transcript": {"const": ""},
            **{field: {"const": None} for field in LABEL_FIELDS},
        }
    },
}
"""JSON Schema of the rule that `SpeakerMeta` checks."""


def _without_serializer(core_schema: CoreSchema) -> CoreSchema:
    """The schema whose JSON Schema shows the fields: a serializer function would hide them."""
    plain: Any = {key: value for key, value in core_schema.items() if key != "serialization"}
    if "schema" in plain and plain["type"] != "model":
        plain["schema"] = _without_serializer(plain["schema"])
    return cast(CoreSchema, plain)


class _Sparse(BaseModel):
    # A docstring would become the description of each schema that has none.
    @model_serializer(mode="wrap")
    def _only_what_applies(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler.resolve_ref_schema(handler(_without_serializer(core_schema)))


class SpeakerMeta(BaseModel):
    """What is known of one clip or turn.

    Serialises to exactly the six keys of `FIELDS`, in that order; a field that was
    not asked for is absent. `confidence`, `probabilities` and `flags` belong to the
    object and are left out of its JSON (a `Turn` has a confidence of its own).

    Labels are checked against `DEFAULT_LABEL_SETS`, or against the sets of a
    checkpoint given as `model_validate(..., context={"label_sets": sets})`.
    """

    model_config = ConfigDict(
        populate_by_name=True, serialize_by_alias=True, extra="forbid", frozen=True
    )

    speech_activity: bool | None = Field(default=None, alias="SpeechActivity", strict=True)
    transcript: str | None = Field(default=None, alias="Transcript")
    gender: str | None = Field(default=None, alias="Gender")
    age: str | None = Field(default=None, alias="Age")
    accent: str | None = Field(default=None, alias="Accent")
    emotion: str | None = Field(default=None, alias="Emotion")

    probabilities: dict[str, dict[str, float]] = Field(default_factory=dict, exclude=True)
    """The whole distribution over each label field's set, and over SpeechActivity."""
    flags: tuple[str, ...] = Field(default=(), exclude=True)
    """`transcript_truncated`, `transcript_loop`: what happened to the transcript."""

    @field_validator("gender", "age", "accent", "emotion")
    @classmethod
    def _in_label_set(cls, value: str | None, info: ValidationInfo) -> str | None:
        field = str(cls.model_fields[str(info.field_name)].alias)
        sets: LabelSets = (info.context or {}).get("label_sets", DEFAULT_LABEL_SETS)
        if value is not None and value not in sets[field]:
            raise ValueError(f"{field} {value!r} is not one of {', '.join(sets[field])}")
        return value

    @model_validator(mode="after")
    def _nothing_without_speech(self) -> Self:
        if self.speech_activity is False:
            labels = (self.gender, self.age, self.accent, self.emotion)
            if self.transcript or any(label is not None for label in labels):
                raise ValueError("without speech the transcript is empty and labels are null")
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        result = handler.resolve_ref_schema(handler(_without_serializer(core_schema)))
        result["properties"] = meta_properties()
        result["description"] = "What was found; a field that was not asked for is absent."
        result.update(NOTHING_WITHOUT_SPEECH)
        return result

    @property
    def confidence(self) -> dict[str, float]:
        """Probability of the most probable value of each label field, also of one that
        abstained; and of SpeechActivity."""
        return {name: max(table.values()) for name, table in self.probabilities.items()}

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that were asked for, in schema order."""
        names = {info.alias: name for name, info in type(self).model_fields.items() if info.alias}
        return tuple(field for field in FIELDS if names[field] in self.model_fields_set)

    def value(self, field: str) -> bool | str | None:
        """The value of a field by its JSON name, such as `Gender`."""
        names = {info.alias: name for name, info in type(self).model_fields.items()}
        result: bool | str | None = getattr(self, names[field])
        return result

    @model_serializer(mode="wrap")
    def _only_asked_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data = handler(self)
        return {field: data[field] for field in self.fields if field in data}


class Word(BaseModel):
    """One word with its time in seconds from the start of the file, and its probability."""

    word: str
    start: float
    end: float
    probability: float


class Turn(BaseModel):
    """A stretch of one speaker's speech; `start` and `end` in seconds of the file.

    In JSON the six fields of `meta` stand directly in the turn.
    """

    model_config = ConfigDict(extra="forbid")

    start: float
    end: float
    channel: int
    speaker: _FileText
    meta: SpeakerMeta
    confidence: dict[str, float] = Field(default_factory=dict)
    transcript_confidence: float | None = None
    """How sure the model is of the transcript, from the probabilities of its tokens."""
    language: str | None = None
    """Of the transcript, where the model found it out; one that was given is the model's."""
    loudness_db: float | None = None
    """RMS level in dB relative to full scale."""
    overlapped: bool | None = None
    """True where another speaker talks at the same time in a part of it; else absent."""
    words: list[Word] | None = None
    flags: list[str] = Field(default_factory=list)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        result = handler.resolve_ref_schema(handler(_without_serializer(core_schema)))
        own = result["properties"]
        head = {name: own.pop(name) for name in ("start", "end", "channel", "speaker")}
        del own["meta"]
        result["properties"] = {**head, **meta_properties(), **own}
        result["required"] = [*head, "confidence"]
        result.update(NOTHING_WITHOUT_SPEECH)
        return result

    @model_validator(mode="before")
    @classmethod
    def _gather_meta(cls, data: object) -> Any:
        if isinstance(data, dict) and "meta" not in data:
            data = dict(data)
            data["meta"] = {name: data.pop(name) for name in FIELDS if name in data}
        return data

    @model_serializer(mode="wrap")
    def _spread_meta(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data = handler(self)
        meta = data.pop("meta", {})
        head = {name: data.pop(name) for name in ("start", "end", "channel", "speaker")}
        names = (
            "transcript_confidence", "language", "loudness_db", "overlapped", "words", "flags",
        )  # fmt: skip
        optional = {name: data.pop(name) for name in names}
        given = {name: value for name, value in optional.items() if value not in (None, [])}
        return {**head, **meta, **data, **given}


class AudioInfo(BaseModel):
    """The file as it was found; `duration` in seconds, `sample_rate` in Hz before resampling."""

    path: _FileText | None
    duration: float
    sample_rate: int
    channels: int
    codec: str | None = None


class ModelInfo(_Sparse):
    """The model that was used; what does not apply to it is absent."""

    name: _FileText
    architecture: str
    device: str
    dtype: str
    revision: str | None = None
    """The commit of a checkpoint from the hub."""
    licence: str | None = None
    """SPDX expression of the weights', heads included."""
    heads: str | None = None
    """The set of label heads: `open` or `research`."""
    language: str | None = None
    """What was decoded; absent where it was detected turn by turn."""
    transcriber: str | None = None
    """The model that wrote the transcripts, where it is another."""
    llm: str | None = None
    """The text model that filled `call_fields`."""


class LabelEstimate(BaseModel):
    value: str | None
    confidence: float


class SpeakerSummary(BaseModel):
    """One speaker of a call; labels pooled over its turns, weighted by duration.

    Seconds unless the name says otherwise; definitions in docs/conversation.md.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    speaker: _FileText
    channel: int | None
    talk_seconds: float
    turns: int
    words_per_minute: float | None = None
    gender: LabelEstimate | None = Field(default=None, alias="Gender")
    age: LabelEstimate | None = Field(default=None, alias="Age")
    accent: LabelEstimate | None = Field(default=None, alias="Accent")
    emotion: dict[str, float] = Field(default_factory=dict, alias="Emotion")
    talk_share: float | None = None
    silence_seconds: float | None = None
    overlap_seconds: float | None = None
    interruptions: int | None = None
    longest_monologue_seconds: float | None = None
    response_latency_seconds: float | None = None
    loudness_db: float | None = None
    emotion_by_quarter: list[dict[str, float]] = Field(default_factory=list)


class Interruption(BaseModel):
    """Somebody began to talk while another went on talking."""

    at: float
    by: _FileText
    of: _FileText | None = None
    overlap_seconds: float | None = None


class Monologue(BaseModel):
    """The longest stretch in which one speaker had the floor."""

    speaker: _FileText
    start: float
    end: float


class Conversation(BaseModel):
    """Measures of the whole call; definitions in docs/conversation.md."""

    talk_seconds: float = 0.0
    silence_seconds: float = 0.0
    overlap_seconds: float = 0.0
    interruptions: list[Interruption] = Field(default_factory=list)
    emotion_by_quarter: list[dict[str, float]] = Field(default_factory=list)
    longest_monologue: Monologue | None = None
    response_latency_seconds: float | None = None
    words_per_minute: float | None = None
    loudness_db: float | None = None


class Coverage(BaseModel):
    """Seconds over all channels; the four add up to duration times channels."""

    speech_seconds: float
    non_speech_seconds: float
    skipped_seconds: float
    missing_seconds: float = 0.0


class RedactedSpan(BaseModel):
    """Seconds of the file in which something private was said; `turn` counts from 0.

    Without times of words it is the whole turn.
    """

    turn: int
    start: float
    end: float
    mark: str


@dataclass(frozen=True)
class Peaks:
    """A recording's outline, to be drawn: of each channel the loudest sample, 0 to 100, of equal
    stretches of `duration` seconds."""

    duration: float
    channels: tuple[tuple[int, ...], ...]


class FilledForm(BaseModel):
    """One call schema as a text model filled it in."""

    value: dict[str, JsonValue] | None
    """By the schema; None where nothing was said in the call."""
    evidence: dict[str, list[int]] = Field(default_factory=dict)
    """By field of the first level, the turns that the model named for it, counted from 0."""
    parts: int = 1
    """So many windows the call was asked about in, whose answers were put together."""
    flags: list[str] = Field(default_factory=list, exclude_if=lambda flags: not flags)
    """`answer_closed`: an answer would have gone on at the end of its budget; `no_words`."""


class PartFailure(BaseModel):
    """A part of what was asked for that could not be had; the rest of the document stands."""

    part: str
    """`transcript`: of `turns`, which have no Transcript, or one that lacks a piece; `call_fields`:
    of a schema that the message names; `sink`: the database does not hold this result."""
    message: str
    hint: str = ""
    turns: list[int] | None = Field(default=None, exclude_if=lambda turns: turns is None)
    """Counted from 0; absent where it is not a matter of single turns."""


class SpeakerFields(BaseModel):
    """What was computed of one speaker's turns; `left_out`: why each other field was not."""

    speaker: _FileText
    fields: list[str]
    left_out: dict[str, str] = Field(default_factory=dict)


class AppliedPolicy(BaseModel):
    """Which fields were computed of whom, by the policy and what was asked for."""

    name: str
    speakers: list[SpeakerFields]


class Alert(_Sparse):
    """What a rule found; what does not apply is absent.

    Seconds of the file; `turn` counts from 0. Definitions in docs/rules.md.
    """

    rule: str
    when: str
    start: float
    end: float
    turn: int | None = None
    speaker: _FileText | None = None
    text: str | None = None
    value: float | None = None


class CallTables(NamedTuple):
    """A report as pandas data frames.

    Attributes:
        turns: a row a turn, with the columns of the CSV; the words are in a table of their own.
        words: a row a word, with the number of its turn; empty without `word_times`.
        speakers: a row a speaker.
    """

    turns: pandas.DataFrame
    words: pandas.DataFrame
    speakers: pandas.DataFrame


@dataclass(frozen=True)
class Drawing:
    """A picture that notebooks show."""

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"Drawing({len(self.svg)} characters of SVG)"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to an SVG file, in place of what is there."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.svg)


class CallReport(BaseModel):
    """The document of `speechmeta analyze FILE --json`."""

    schema_version: str = SCHEMA_VERSION
    audio: AudioInfo
    model: ModelInfo
    turns: list[Turn]
    speakers: list[SpeakerSummary] = Field(default_factory=list)
    conversation: Conversation = Field(default_factory=Conversation)
    coverage: Coverage
    policy: AppliedPolicy | None = Field(default=None, exclude_if=lambda policy: policy is None)
    alerts: list[Alert] | None = Field(default=None, exclude_if=lambda alerts: alerts is None)
    """Absent where no rules were given."""
    redactions: list[RedactedSpan] | None = Field(
        default=None, exclude_if=lambda spans: spans is None
    )
    """Absent where no redaction was asked for."""
    call_fields: dict[str, FilledForm] | None = Field(
        default=None, exclude_if=lambda forms: forms is None
    )
    """By name of the schema; absent where none was asked for."""
    failures: list[PartFailure] = Field(
        default_factory=list, exclude_if=lambda failures: not failures
    )
    """Absent where everything that was asked for is there."""
    warnings: list[_FileText] = Field(default_factory=list)
    _peaks: Peaks | None = PrivateAttr(default=None)
    _digest: str | None = PrivateAttr(default=None)

    @property
    def peaks(self) -> Peaks | None:
        """What the page draws; no part of the document, so None in a report that was read back."""
        return self._peaks

    def to_pandas(self) -> CallTables:
        """Turns, words and speakers as data frames.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        tables: CallTables = _notebook().to_pandas(self)
        return tables

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the report to a file whose ending names the format: `call.html`, `call.srt`.

        Raises:
            UsageError: there is no such format, or its libraries are not installed.
            OutputError: the file exists and `overwrite` is false, or it cannot be written.
        """
        _notebook().save(self, path, overwrite=overwrite)

    def plot(self) -> Drawing:
        """The turns over time, a lane a speaker, in the colours and letters of their emotions."""
        drawing: Drawing = _notebook().plot(self)
        return drawing

    def _repr_html_(self) -> str:
        """What a notebook shows: a summary, not the whole document."""
        text: str = _notebook().summary_html(self)
        return text

    def __repr__(self) -> str:
        text: str = _notebook().short_text(self)
        return text

    __str__ = __repr__

    @property
    def digest(self) -> str | None:
        """The SHA-256 of the recording, where results go to a database; no part of the
        document."""
        return self._digest

    def with_digest(self, digest: str | None) -> Self:
        """This report, from now on with the recording's digest."""
        self._digest = digest
        return self

    def with_peaks(self, peaks: Peaks | None) -> Self:
        """This report, from now on with an outline."""
        self._peaks = peaks
        return self


def _notebook() -> Any:
    """What makes files, tables and pictures of a report: the writers, which know the schema, and
    which the schema does not know."""
    return importlib.import_module("speechmeta.writers.notebook")
