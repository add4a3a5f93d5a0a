"""From the records of a run to its report's numbers, a JSON-ready dict.

Nothing is dropped from a denominator: a failed clip counts all its words as deleted, its
labels as wrong, its speech activity as wrong and its JSON as invalid. A clip whose reference
is empty after normalisation has no word error rate; such clips are left out of it, counted,
and what was transcribed there is reported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np

from speechmeta.errors import DatasetError
from speechmeta.schema import DEFAULT_LABEL_SETS, LABEL_FIELDS, SpeakerMeta

from ..types import Record, Value
from .bootstrap import interval, ratio
from .labelscores import LabelCase, score_labels
from .normalizers import Normalizer
from .word_errors import EditCounts, character_counts, total, word_counts

MIN_GROUP = 20
"""Groups of fewer clips are shown, but take no part in the gap between best and worst."""

GROUP_FIELDS = ("Gender", "Age", "Accent")

GROUP_COLUMN = "group_"
"""Begins the names of a report's columns that hold further groups of each clip."""


@dataclass(frozen=True)
class Scored:
    """A record with its word and character edits; None where it has no text to be scored."""

    record: Record
    words: EditCounts | None
    characters: EditCounts | None
    reference_text: str
    hypothesis_text: str


def score_records(
    records: Sequence[Record],
    normalizer: Normalizer,
    *,
    fields: Sequence[str],
    label_sets: Mapping[str, Sequence[str]] = DEFAULT_LABEL_SETS,
    classes: Mapping[str, Sequence[str]] | None = None,
    folds: str | None = None,
    ignore_abstained: bool = False,
) -> dict[str, Any]:
    """All measures of a run.

    Args:
        records: one per clip of the data set, the failed ones too.
        normalizer: applied to references and hypotheses.
        fields: what the system predicts; other fields are not scored.
        label_sets: the system's classes, for the order of the confusion matrices.
        classes: fields whose classes the data set's protocol restricts.
        folds: name of the group that holds the protocol's folds.
        ignore_abstained: leave clips with a null label out of that label's accuracy.

    Raises:
        DatasetError: there are no records.
    """
    if not records:
        raise DatasetError("there are no records to score", "check the data set and --limit")
    classes = classes or {}
    records = [_restricted(record, classes) for record in records]
    scored = [score_text(record, normalizer, "Transcript" in fields) for record in records]
    failures = [{"id": r.id, "error": r.error} for r in records if r.error is not None]
    audio = sum(r.duration or 0.0 for r in records)
    compute = sum(r.seconds for r in records)
    with_time = sum(r.duration or 0.0 for r in records if r.seconds > 0)
    report: dict[str, Any] = {
        "n": len(records),
        "errors": len(failures),
        "speakers": _speakers(records),
        "audio_seconds": audio,
        **_text_report(scored, normalizer),
        "labels": {},
        "speech_activity": score_speech(records) if "SpeechActivity" in fields else None,
        "valid_json": score_json(records, label_sets, fields),
        "rtfx": with_time / compute if compute > 0 and with_time > 0 else None,
        "compute_seconds": compute,
        "truncated_transcripts": sum("transcript_truncated" in r.flags for r in records),
        "transcript_loops": sum("transcript_loop" in r.flags for r in records),
    }
    for field in LABEL_FIELDS:
        if field not in fields:
            continue
        names = list(classes.get(field) or label_sets.get(field) or DEFAULT_LABEL_SETS[field])
        result = score_labels(label_cases(records, field), names, ignore_abstained=ignore_abstained)
        if result is not None:
            report["labels"][field] = result
    report["groups"] = _groups(scored, fields)
    report["sources"] = _by(scored, [s.record.dataset for s in scored], fields)
    if folds is not None:
        report["folds"] = _folds(records, folds, fields, classes, ignore_abstained)
    report["failures"] = failures
    report["clips"] = _columns(scored, fields)
    return report


def score_text(record: Record, normalizer: Normalizer, transcribes: bool = True) -> Scored:
    """Aligns one record's transcript with its reference."""
    reference = record.reference.get("Transcript")
    given = record.prediction.get("Transcript")
    hypothesis = normalizer(given) if isinstance(given, str) else ""
    text = normalizer(reference) if isinstance(reference, str) else ""
    if not text or not transcribes:
        return Scored(record, None, None, text, hypothesis)
    return Scored(
        record,
        word_counts(text, hypothesis),
        character_counts(text, hypothesis),
        text,
        hypothesis,
    )


def label_cases(records: Sequence[Record], field: str) -> list[LabelCase]:
    """The clips whose label of this field is known."""
    return [
        LabelCase(
            unit=record.unit,
            reference=str(record.reference[field]),
            prediction=_text(record.prediction.get(field)),
            failed=record.error is not None,
            probabilities=record.probabilities.get(field),
        )
        for record in records
        if record.reference.get(field) is not None
    ]


def score_speech(records: Sequence[Record]) -> dict[str, Any] | None:
    """Precision and recall of speech; a failed clip counts as the wrong answer."""
    cases = [
        (bool(r.reference["SpeechActivity"]), r.prediction.get("SpeechActivity"), r.unit)
        for r in records
        if r.reference.get("SpeechActivity") is not None
    ]
    if not cases:
        return None
    answers = [(ref, (not ref) if given is None else bool(given), u) for ref, given, u in cases]
    both = sum(ref and given for ref, given, _ in answers)
    speech, said = sum(ref for ref, _, _ in answers), sum(given for _, given, _ in answers)
    correct = np.array([[float(ref == given), 1.0] for ref, given, _ in answers])
    precision = both / said if said else None
    recall = both / speech if speech else None
    silence = len(answers) - speech
    false_alarms = said - both
    return {
        "n": len(answers),
        "speech": speech,
        "non_speech": silence,
        "precision": precision,
        "recall": recall,
        "f1": 2 * both / (said + speech) if said + speech else None,
        "false_alarms": false_alarms,
        "misses": speech - both,
        "specificity": (silence - false_alarms) / silence if silence else None,
        "accuracy": float(correct[:, 0].mean()),
        "accuracy_interval": interval([unit for _, _, unit in answers], correct, ratio),
    }


def score_json(
    records: Sequence[Record], label_sets: Mapping[str, Sequence[str]], fields: Sequence[str]
) -> dict[str, Any] | None:
    """The share of clips whose delivered JSON parses and fits the schema of the fields.

    `share` counts failed clips as invalid, `share_of_results` leaves them out.

    None for systems that deliver none.
    """
    if all(record.output is None for record in records):
        return None
    valid = [is_valid_json(record.output, label_sets, fields) for record in records]
    answered = sum(record.error is None for record in records)
    return {
        "share": fmean(valid),
        "share_of_results": sum(valid) / answered if answered else None,
        "n": len(valid),
        "invalid": [r.id for r, good in zip(records, valid, strict=True) if not good],
    }


def is_valid_json(
    output: str | None, label_sets: Mapping[str, Sequence[str]], fields: Sequence[str]
) -> bool:
    """Whether a text is a JSON object with exactly these fields, each as the schema has it."""
    if output is None:
        return False
    try:
        meta = SpeakerMeta.model_validate(json.loads(output), context={"label_sets": label_sets})
    except ValueError:
        return False
    return set(meta.fields) == set(fields)


def _text_report(scored: Sequence[Scored], normalizer: Normalizer) -> dict[str, Any]:
    pairs = [(s, s.words, s.characters) for s in scored]
    counted = [(s, w, c) for s, w, c in pairs if w is not None and c is not None]
    words, characters = total(w for _, w, _ in counted), total(c for _, _, c in counted)
    units = [s.record.unit for s, _, _ in counted]
    empty = [
        s
        for s in scored
        if s.words is None
        and s.record.reference.get("Transcript") is not None
        and not s.reference_text
    ]
    silent = [
        s
        for s in scored
        if s.record.reference.get("SpeechActivity") is False
        and s.record.reference.get("Transcript") is None
    ]
    return {
        "wer": words.rate,
        "wer_interval": _rate_interval(units, [w for _, w, _ in counted]),
        "cer": characters.rate,
        "cer_interval": _rate_interval(units, [c for _, _, c in counted]),
        "normalizer": normalizer.name,
        "normalizer_description": normalizer.description,
        "words": {"clips": len(counted), **_counts(words)},
        "characters": _counts(characters),
        "empty_references": {"ids": [s.record.id for s in empty], **_invented(empty)},
        "non_speech": _invented(silent),
    }


def _invented(scored: Sequence[Scored]) -> dict[str, int]:
    lengths = [len(s.hypothesis_text.split()) for s in scored]
    return {"n": len(scored), "with_words": sum(map(bool, lengths)), "words": sum(lengths)}


def _counts(counts: EditCounts) -> dict[str, int]:
    return {
        "reference": counts.reference,
        "hits": counts.hits,
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
    }


def _rate_interval(units: Sequence[str], counts: Sequence[EditCounts]) -> list[float] | None:
    values = np.array([[c.errors, c.reference] for c in counts], dtype=float).reshape(-1, 2)
    return interval(units, values, ratio)


def _groups(scored: Sequence[Scored], fields: Sequence[str]) -> dict[str, Any]:
    names: dict[str, list[str | None]] = {
        field: [_text(s.record.reference.get(field)) for s in scored] for field in GROUP_FIELDS
    }
    for key in dict.fromkeys(key for s in scored for key in s.record.groups):
        names[key] = [s.record.groups.get(key) for s in scored]
    result: dict[str, Any] = {}
    for name, values in names.items():
        groups = _by(scored, values, fields)
        if len(groups) > 1:
            result[name] = {"groups": groups, "gaps": _gaps(groups)}
    return result


def _by(
    scored: Sequence[Scored],
    values: Sequence[str | None],
    fields: Sequence[str],
) -> dict[str, Any]:
    members: dict[str, list[Scored]] = {}
    for item, value in zip(scored, values, strict=True):
        if value is not None:
            members.setdefault(value, []).append(item)
    return {name: _summary(members[name], fields) for name in sorted(members)}


def _summary(scored: Sequence[Scored], fields: Sequence[str]) -> dict[str, Any]:
    counted = [(s.record.unit, s.words) for s in scored if s.words is not None]
    counts = [words for _, words in counted]
    summary: dict[str, Any] = {
        "n": len(scored),
        "errors": sum(s.record.error is not None for s in scored),
        "speakers": _speakers([s.record for s in scored]),
        "audio_seconds": sum(s.record.duration or 0.0 for s in scored),
        "wer": total(counts).rate,
        "wer_interval": _rate_interval([u for u, _ in counted], counts),
        "wer_clips": len(counts),
        "words": total(counts).reference,
        "accuracy": {},
    }
    records = [s.record for s in scored]
    if "SpeechActivity" in fields:
        speech = score_speech(records)
        if speech is not None:
            summary["accuracy"]["SpeechActivity"] = {
                "accuracy": speech["accuracy"],
                "n": speech["n"],
            }
    for field in LABEL_FIELDS:
        cases = label_cases(records, field) if field in fields else []
        if cases:
            summary["accuracy"][field] = {
                "accuracy": fmean(case.correct for case in cases),
                "n": len(cases),
            }
    return summary


def _speakers(records: Sequence[Record]) -> int:
    return len({record.unit for record in records if record.speaker is not None})


def _gaps(groups: Mapping[str, Any]) -> dict[str, Any]:
    measured: dict[str, dict[str, float]] = {}
    for name, group in groups.items():
        if group["wer"] is not None and group["wer_clips"] >= MIN_GROUP:
            measured.setdefault("wer", {})[name] = group["wer"]
        for field, item in group["accuracy"].items():
            if item["n"] >= MIN_GROUP:
                measured.setdefault(field, {})[name] = item["accuracy"]
    gaps = {}
    for measure, values in measured.items():
        gap = gap_between(values, lowest_is_best=measure == "wer")
        if gap is not None:
            gaps[measure] = gap
    return gaps


def gap_between(values: Mapping[str, float], *, lowest_is_best: bool) -> dict[str, Any] | None:
    """How far the best and the worst group are apart; None of fewer than two groups."""
    if len(values) < 2:
        return None
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    best, worst = (low, high) if lowest_is_best else (high, low)
    return {"best": best, "worst": worst, "gap": abs(values[high] - values[low])}


def _folds(
    records: Sequence[Record],
    name: str,
    fields: Sequence[str],
    classes: Mapping[str, Sequence[str]],
    ignore_abstained: bool,
) -> dict[str, Any]:
    values = sorted({record.groups[name] for record in records if name in record.groups})
    result: dict[str, Any] = {"group": name, "folds": {}, "mean": {}}
    for value in values:
        part = [record for record in records if record.groups.get(name) == value]
        result["folds"][value] = {
            field: {key: scores[key] for key in ("n", "accuracy", "uar", "macro_f1")}
            for field in classes
            if field in fields
            and (
                scores := score_labels(
                    label_cases(part, field), classes[field], ignore_abstained=ignore_abstained
                )
            )
        }
    for field in classes:
        parts = [fold[field] for fold in result["folds"].values() if field in fold]
        if parts:
            result["mean"][field] = {
                key: {
                    "mean": fmean(item[key] for item in parts),
                    "sd": stdev([item[key] for item in parts]) if len(parts) > 1 else None,
                }
                for key in ("accuracy", "uar", "macro_f1")
            }
    return result


def _columns(scored: Sequence[Scored], fields: Sequence[str]) -> dict[str, list[Any]]:
    # What `compare` needs of each clip, column by column; no text and no recordings.
    units: dict[str, int] = {}
    columns: dict[str, list[Any]] = {
        "id": [s.record.id for s in scored],
        "dataset": [s.record.dataset for s in scored],
        "unit": [units.setdefault(s.record.unit, len(units)) for s in scored],
        "failed": [int(s.record.error is not None) for s in scored],
        "word_errors": [s.words.errors if s.words else None for s in scored],
        "words": [s.words.reference if s.words else None for s in scored],
        "character_errors": [s.characters.errors if s.characters else None for s in scored],
        "characters": [s.characters.reference if s.characters else None for s in scored],
    }
    for field in ("SpeechActivity", *LABEL_FIELDS):
        if field in fields:
            columns[field] = [
                None
                if s.record.reference.get(field) is None
                else int(s.record.reference[field] == s.record.prediction.get(field))
                for s in scored
            ]
            if field in LABEL_FIELDS:
                columns[f"{field}_reference"] = [s.record.reference.get(field) for s in scored]
    for name in dict.fromkeys(name for s in scored for name in s.record.groups):
        columns[f"{GROUP_COLUMN}{name}"] = [s.record.groups.get(name) for s in scored]
    return columns


def _restricted(record: Record, classes: Mapping[str, Sequence[str]]) -> Record:
    """The record with predictions and probabilities over the protocol's classes only."""
    from dataclasses import replace

    prediction: dict[str, Value] = dict(record.prediction)
    probabilities = dict(record.probabilities)
    for field, names in classes.items():
        inside = {n: p for n, p in probabilities.get(field, {}).items() if n in names}
        mass = sum(inside.values())
        if mass <= 0:
            continue
        probabilities[field] = {name: p / mass for name, p in inside.items()}
        if prediction.get(field) is not None:
            prediction[field] = max(inside, key=inside.__getitem__)
    return replace(record, prediction=prediction, probabilities=probabilities)


def _text(value: Value) -> str | None:
    return None if value is None else str(value)
