"""Format following: does an answer parse, fit the schema, and hold exactly what was asked for?

The measure of ISA-Bench's "three tasks in one JSON" and its like: every clip comes with a set of
fields of its own, the system answers in one JSON object, and three things are counted that need no
judge. What the answer says about the recording plays no part.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from speechmeta.audio.loading import SAMPLE_RATE, Audio, load_audio, resample
from speechmeta.errors import SpeechMetaError
from speechmeta.schema import DEFAULT_LABEL_SETS, FIELDS, LABEL_FIELDS, SpeakerMeta

from .hard_clips import SECONDS, HardClip
from .types import Clip, Dataset, Prediction, Record

if TYPE_CHECKING:
    from speechmeta.pipeline.analyzer import Analyzer

THREE_TASKS = ("Transcript", "Gender", "Emotion")
"""Asked of a third of the clips: three tasks in one JSON."""

_FENCE = re.compile(r"^```(?:json)?\s*\n(.*?)\n?```$", re.DOTALL)


@dataclass(frozen=True)
class Verdict:
    """What became of an answer.

    Attributes:
        parses: it is one JSON object, no key twice, and nothing else.
        exact: it has the keys that were asked for and no others.
        valid: every value is one that the schema allows.
        fenced: it is only when a code fence around it is taken away that it parses; the other two
            are then of what is inside, and it does not count as following.
    """

    parses: bool = False
    exact: bool = False
    valid: bool = False
    fenced: bool = False

    @property
    def follows(self) -> bool:
        return self.parses and self.exact and self.valid

    @property
    def follows_in_fence(self) -> bool:
        """As most instruction benchmarks count it: a code fence is forgiven."""
        return (self.parses or self.fenced) and self.exact and self.valid


def judge(
    answer: str | None,
    fields: Sequence[str],
    label_sets: Mapping[str, Sequence[str]] = DEFAULT_LABEL_SETS,
) -> Verdict:
    """Judges one answer; None is a system that gave none."""
    text = (answer or "").strip()
    found = _object(text)
    fence = _FENCE.match(text)
    inner = _object(fence[1]) if found is None and fence else None
    data = inner if found is None else found
    if data is None:
        return Verdict()
    try:
        SpeakerMeta.model_validate(data, context={"label_sets": label_sets})
        valid = True
    except ValueError:
        valid = False
    return Verdict(found is not None, set(data) == set(fields), valid, inner is not None)


def _object(text: str) -> dict[str, Any] | None:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    try:
        data = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def asked_fields(name: str) -> tuple[str, ...]:
    """The fields that are asked of a clip: the same for the same name."""
    draw = random.Random(f"fields {name}")
    if draw.random() < 1 / 3:
        return THREE_TASKS
    chosen = draw.sample(FIELDS, draw.randint(1, len(FIELDS)))
    return tuple(field for field in FIELDS if field in chosen)


def instruction(
    fields: Sequence[str], label_sets: Mapping[str, Sequence[str]] = DEFAULT_LABEL_SETS
) -> str:
    """What a model that answers freely is asked."""
    told = {
        "SpeechActivity": "true if anybody speaks, else false",
        "Transcript": "the words that are spoken, as a string",
    }
    for field in LABEL_FIELDS:
        values = ", ".join(json.dumps(value) for value in label_sets[field])
        told[field] = f"one of {values}, or null if it cannot be told"
    lines = [f'- "{field}": {told[field]}' for field in fields]
    return (
        "Listen to the recording and answer with one JSON object that has exactly these keys:\n"
        + "\n".join(lines)
        + "\nIf nobody speaks, labels are null and the transcript is empty. Write the JSON object "
        "and nothing else."
    )


def as_dataset(clips: Sequence[HardClip]) -> Dataset:
    """The clips as a run takes them: the condition as the source, the asked fields as a group."""
    made = [
        Clip(
            id=clip.name,
            audio=clip.source,
            dataset=clip.condition,
            # The longest that it can be: all are equal, so that a run goes through them in order
            # and what an interrupted one has done is a sample like the whole.
            duration=SECONDS[1],
            groups={"fields": ",".join(asked_fields(clip.name))},
        )
        for clip in clips
    ]
    return Dataset("hard clips", str(len(clips)), None, made)


class Answers(Protocol):
    """A system that is asked for fields."""

    def describe(self) -> dict[str, Any]:
        """JSON-ready facts for the report."""
        ...

    def answer(
        self, audios: Sequence[Audio], fields: Sequence[str]
    ) -> Sequence[str | SpeechMetaError]:
        """One text for each recording (mono, 16 kHz), or why there is none."""
        ...


class Asking:
    """Makes each clip, asks for its fields, and keeps the answer as it was written.

    Args:
        system: what answers.
        clips: of the run's data set.
    """

    needs_audio = False

    def __init__(self, system: Answers, clips: Sequence[HardClip]) -> None:
        self.system = system
        self.clips = {clip.name: clip for clip in clips}

    def describe(self) -> dict[str, Any]:
        return self.system.describe()

    def predict_clips(
        self, clips: Sequence[Clip], audios: Sequence[Audio | None]
    ) -> list[Prediction]:
        predictions: dict[str, Prediction] = {}
        heard: dict[tuple[str, ...], list[tuple[str, Audio]]] = {}
        for clip in clips:
            # One call has one set of fields.
            fields = tuple(clip.groups["fields"].split(","))
            try:
                audio = load_audio(self.clips[clip.id].file())
            except SpeechMetaError as error:
                predictions[clip.id] = Prediction(error=f"not readable: {error}")
                continue
            mono = resample(audio.mono(), audio.sample_rate, SAMPLE_RATE)
            heard.setdefault(fields, []).append((clip.id, Audio(mono[None], SAMPLE_RATE)))
        for fields, group in heard.items():
            answers = self.system.answer([audio for _, audio in group], fields)
            for (name, _), answer in zip(group, answers, strict=True):
                failed = isinstance(answer, SpeechMetaError)
                predictions[name] = (
                    Prediction(error=str(answer)) if failed else Prediction(output=str(answer))
                )
        return [predictions[clip.id] for clip in clips]


class AnalyzerAnswers:
    """This package's models: the JSON of `Analyzer.generate_meta_batch`, as callers get it."""

    def __init__(self, analyzer: Analyzer) -> None:
        self.analyzer = analyzer

    @property
    def label_sets(self) -> Mapping[str, Sequence[str]]:
        return self.analyzer.label_sets

    def describe(self) -> dict[str, Any]:
        return {**self.analyzer.info.model_dump(), "fields": list(FIELDS)}

    def answer(self, audios: Sequence[Audio], fields: Sequence[str]) -> list[str | SpeechMetaError]:
        results = self.analyzer.generate_meta_batch(list(audios), fields)
        return [
            item if isinstance(item, SpeechMetaError) else item.model_dump_json()
            for item in results
        ]


def summarise(
    records: Sequence[Record], label_sets: Mapping[str, Sequence[str]] = DEFAULT_LABEL_SETS
) -> dict[str, Any]:
    """Counts, overall, by condition, by number of fields and for the three tasks in one JSON.

    A clip without an answer follows in nothing. Clips that are no readable recording any more
    are counted too, and named as `unreadable`.
    """
    judged = [
        (record, judge(record.output, record.groups["fields"].split(","), label_sets))
        for record in records
    ]
    counts = sorted({record.groups["fields"].count(",") + 1 for record, _ in judged})
    trio = ",".join(field for field in FIELDS if field in THREE_TASKS)
    return {
        "all": _counted(judged),
        "three tasks in one JSON": _counted([p for p in judged if p[0].groups["fields"] == trio]),
        "by condition": {
            name: _counted([pair for pair in judged if pair[0].dataset == name])
            for name in dict.fromkeys(record.dataset for record, _ in judged)
        },
        "by number of fields": {
            str(count): _counted(
                [p for p in judged if p[0].groups["fields"].count(",") + 1 == count]
            )
            for count in counts
        },
    }


def _counted(judged: Sequence[tuple[Record, Verdict]]) -> dict[str, Any]:
    n = len(judged)
    follows = sum(verdict.follows for _, verdict in judged)
    in_fence = sum(verdict.follows_in_fence for _, verdict in judged)
    return {
        "n": n,
        "unreadable": sum((r.error or "").startswith("not readable") for r, _ in judged),
        "errors": sum(record.error is not None for record, _ in judged),
        "parses": sum(verdict.parses for _, verdict in judged),
        "exact_fields": sum(verdict.exact for _, verdict in judged),
        "valid": sum(verdict.valid for _, verdict in judged),
        "follows": follows,
        "follows_share": follows / n if n else None,
        "follows_with_code_fence": in_fence,
        "follows_with_code_fence_share": in_fence / n if n else None,
        # The rule of three where none failed: at this level the true rate is at least so high.
        "at_least_95": _lower_limit(follows, n),
    }


def _lower_limit(good: int, n: int) -> float | None:
    """One-sided 95 % Clopper-Pearson limit of a share."""
    from scipy.stats import beta

    if not n:
        return None
    return float(beta.ppf(0.05, good, n - good + 1)) if good else 0.0


__all__ = [
    "THREE_TASKS",
    "AnalyzerAnswers",
    "Asking",
    "Verdict",
    "as_dataset",
    "asked_fields",
    "instruction",
    "judge",
    "summarise",
]
