"""Measures of a whole call from its turns; every definition stands in docs/conversation.md.

Knows neither audio nor models.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from speechmeta.schema import (
    LABEL_FIELDS,
    Conversation,
    Interruption,
    LabelEstimate,
    Monologue,
    SpeakerSummary,
    Turn,
    threshold_of,
)

JOIN_SECONDS = 0.1
"""Turns of one speaker this close were cut only for their length: one run of talk."""

INTERRUPTION_SECONDS = 0.3
"""Both have to talk this long for an interruption; less is an ordinary change of speaker."""

SIMULTANEOUS_SECONDS = 0.2
"""Who begins within this time of the other does not interrupt."""

BACKCHANNEL_SECONDS = 1.0
"""Talk shorter than this, wholly inside the other's, is a sign of listening ("mhm")."""

MONOLOGUE_PAUSE_SECONDS = 2.0
"""Longest pause inside a monologue."""

QUARTERS = 4

Interval = tuple[float, float]


@dataclass(frozen=True)
class Run:
    """Uninterrupted talk of one speaker, in seconds."""

    speaker: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def within(self, other: Run) -> bool:
        return other.start <= self.start and self.end <= other.end


def spoken(turns: Iterable[Turn]) -> list[Turn]:
    """The turns that have speech, or were not asked whether they have, in order of time."""
    found = [turn for turn in turns if turn.meta.speech_activity is not False]
    return sorted(found, key=lambda turn: (turn.start, turn.end))


def talk_runs(turns: Iterable[Turn]) -> list[Run]:
    """Runs of talk in order of time, turns of one speaker closer than 0.1 s joined."""
    last: dict[str, int] = {}
    runs: list[Run] = []
    for turn in spoken(turns):
        index = last.get(turn.speaker)
        if index is not None and turn.start - runs[index].end <= JOIN_SECONDS:
            before = runs[index]
            runs[index] = Run(before.speaker, before.start, max(before.end, turn.end))
        else:
            last[turn.speaker] = len(runs)
            runs.append(Run(turn.speaker, turn.start, turn.end))
    return runs


def measure(turns: Sequence[Turn], duration: float, speakers: Sequence[str]) -> Conversation:
    """The measures of the whole call.

    Args:
        turns: of all speakers; those without speech are left out of every measure.
        duration: of the recording, in seconds.
        speakers: all who were looked for, talking or not.
    """
    runs = talk_runs(turns)
    talk, overlap = _talk_and_overlap(runs)
    found = interruptions(runs)
    latencies = [gap for gaps in response_latencies(runs).values() for gap in gaps]
    stretches = [monologue for name in speakers if (monologue := longest_monologue(runs, name))]
    voices = spoken(turns)
    return Conversation(
        talk_seconds=_round(talk),
        silence_seconds=_round(max(0.0, duration - talk)),
        overlap_seconds=_round(overlap),
        interruptions=found,
        emotion_by_quarter=emotion_by_quarter(turns, duration),
        longest_monologue=max(stretches, key=lambda m: m.end - m.start, default=None),
        response_latency_seconds=_round(median(latencies)) if latencies else None,
        words_per_minute=words_per_minute(voices),
        loudness_db=mean_loudness(voices),
    )


def summarize(
    turns: Sequence[Turn],
    duration: float,
    speaker: str,
    channel: int | None,
    min_confidence: float | Mapping[str, float] = 0.0,
) -> SpeakerSummary:
    """The measures and pooled labels of one speaker.

    Args:
        turns: of all speakers of the call.
        channel: the one that the speaker has for itself, or None.
        min_confidence: a pooled label less probable than this becomes None; one number, or one by
            field.
    """
    own = [turn for turn in spoken(turns) if turn.speaker == speaker]
    runs = talk_runs(turns)
    mine = [(run.start, run.end) for run in runs if run.speaker == speaker]
    others = [(run.start, run.end) for run in runs if run.speaker != speaker]
    talk = _length(_union(mine))
    everyone = sum(
        _length(_union((run.start, run.end) for run in runs if run.speaker == name))
        for name in {run.speaker for run in runs}
    )
    latencies = response_latencies(runs).get(speaker, [])
    monologue = longest_monologue(runs, speaker)
    pooled = {field: pool(own, field) for field in LABEL_FIELDS}
    labels = {
        field: _estimate(pooled[field], threshold_of(field, min_confidence))
        for field in LABEL_FIELDS
        if field != "Emotion" and pooled[field]
    }
    return SpeakerSummary(
        speaker=speaker,
        channel=channel,
        talk_seconds=_round(talk),
        turns=len(own),
        words_per_minute=words_per_minute(own),
        Gender=labels.get("Gender"),
        Age=labels.get("Age"),
        Accent=labels.get("Accent"),
        Emotion={label: round(share, 4) for label, share in pooled["Emotion"].items()},
        talk_share=round(talk / everyone, 4) if everyone else None,
        silence_seconds=_round(max(0.0, duration - talk)),
        overlap_seconds=_round(_length(_intersect(_union(mine), _union(others)))),
        interruptions=sum(item.by == speaker for item in interruptions(runs)),
        longest_monologue_seconds=_round(monologue.end - monologue.start) if monologue else None,
        response_latency_seconds=_round(median(latencies)) if latencies else None,
        loudness_db=mean_loudness(own),
        emotion_by_quarter=emotion_by_quarter(own, duration),
    )


def interruptions(runs: Sequence[Run]) -> list[Interruption]:
    """Runs that begin while another speaker talks and goes on talking, in order of time."""
    found = []
    going_on: list[Run] = []
    for run in runs:
        going_on = [other for other in going_on if other.end > run.start]
        talking = [
            other
            for other in going_on
            if other.speaker != run.speaker
            and other.start <= run.start - SIMULTANEOUS_SECONDS
            and min(other.end, run.end) - run.start >= INTERRUPTION_SECONDS
            and not (run.within(other) and run.seconds < BACKCHANNEL_SECONDS)
        ]
        if talking:
            other = max(talking, key=lambda item: item.end)
            found.append(
                Interruption(
                    at=_round(run.start),
                    by=run.speaker,
                    of=other.speaker,
                    overlap_seconds=_round(min(other.end, run.end) - run.start),
                )
            )
        going_on.append(run)
    return found


def response_latencies(runs: Sequence[Run]) -> dict[str, list[float]]:
    """For each speaker, the silences in seconds after which it answered another."""
    found: dict[str, list[float]] = {}
    if not runs:
        return found
    latest = runs[0]
    for run in runs[1:]:
        if run.start >= latest.end and run.speaker != latest.speaker:
            found.setdefault(run.speaker, []).append(run.start - latest.end)
        if run.end >= latest.end:
            latest = run
    return found


def longest_monologue(runs: Sequence[Run], speaker: str) -> Monologue | None:
    """The longest stretch of a speaker's runs that no other speaker's run divides."""
    others = sorted(
        run.start for run in runs if run.speaker != speaker and run.seconds >= BACKCHANNEL_SECONDS
    )
    best: Interval | None = None
    current: Interval | None = None
    for run in runs:
        if run.speaker != speaker:
            continue
        goes_on = (
            current is not None
            and run.start - current[1] <= MONOLOGUE_PAUSE_SECONDS
            and bisect_right(others, current[0]) >= bisect_left(others, run.start)
        )
        current = (current[0] if goes_on and current else run.start, run.end)
        if best is None or current[1] - current[0] > best[1] - best[0]:
            best = current
    if best is None:
        return None
    return Monologue(speaker=speaker, start=_round(best[0]), end=_round(best[1]))


def emotion_by_quarter(turns: Iterable[Turn], duration: float) -> list[dict[str, float]]:
    """The mean emotion in each quarter of the call, weighted by the seconds of talk in it.

    Empty where no turn has an emotion; `{}` for a quarter without talk.
    """
    voices = [(turn, table) for turn in spoken(turns) if (table := distribution(turn, "Emotion"))]
    if not voices or duration <= 0:
        return []
    quarters = []
    for index in range(QUARTERS):
        start, end = (duration * edge / QUARTERS for edge in (index, index + 1))
        weighted = [
            (table, min(turn.end, end) - max(turn.start, start))
            for turn, table in voices
            if min(turn.end, end) > max(turn.start, start)
        ]
        quarters.append({label: round(p, 4) for label, p in _mean(weighted).items()})
    return quarters


def distribution(turn: Turn, field: str) -> dict[str, float]:
    """The turn's probabilities of a label field; certainty of the value where there are none."""
    table = turn.meta.probabilities.get(field)
    if table:
        return table
    value = turn.meta.value(field)
    return {str(value): 1.0} if value is not None else {}


def pool(turns: Iterable[Turn], field: str) -> dict[str, float]:
    """Probabilities of a label field over several turns, weighted by their duration."""
    tables = [(distribution(turn, field), turn.end - turn.start) for turn in turns]
    return _mean([(table, seconds) for table, seconds in tables if table])


def words_per_minute(turns: Sequence[Turn]) -> float | None:
    """Words per minute of talk in the turns that have a transcript; None without one."""
    written = [turn for turn in turns if turn.meta.transcript is not None]
    seconds = sum(turn.end - turn.start for turn in written)
    if seconds <= 0:
        return None
    words = sum(len(str(turn.meta.transcript).split()) for turn in written)
    return round(60 * words / seconds, 1)


def mean_loudness(turns: Iterable[Turn]) -> float | None:
    """Mean power of the turns in dB full scale, weighted by their duration."""
    known = [(turn.loudness_db, turn.end - turn.start) for turn in turns]
    powers = [(10 ** (level / 10), seconds) for level, seconds in known if level is not None]
    total = sum(seconds for _, seconds in powers)
    if total <= 0:
        return None
    return round(10 * math.log10(sum(power * seconds for power, seconds in powers) / total), 1)


def _mean(tables: Sequence[tuple[dict[str, float], float]]) -> dict[str, float]:
    total = sum(weight for _, weight in tables)
    if total <= 0:
        return {}
    labels = dict.fromkeys(label for table, _ in tables for label in table)
    return {
        label: sum(table.get(label, 0.0) * weight for table, weight in tables) / total
        for label in labels
    }


def _estimate(pooled: dict[str, float], min_confidence: float) -> LabelEstimate:
    label = max(pooled, key=pooled.__getitem__)
    value = label if pooled[label] >= min_confidence else None
    return LabelEstimate(value=value, confidence=round(pooled[label], 4))


def _talk_and_overlap(runs: Sequence[Run]) -> tuple[float, float]:
    """Seconds in which at least one and at least two speakers talk."""
    edges: list[tuple[float, int]] = []
    for speaker in {run.speaker for run in runs}:
        for start, end in _union((run.start, run.end) for run in runs if run.speaker == speaker):
            edges += [(start, 1), (end, -1)]
    talk = overlap = 0.0
    talking, since = 0, 0.0
    for time, change in sorted(edges):
        talk += (time - since) * (talking >= 1)
        overlap += (time - since) * (talking >= 2)
        talking, since = talking + change, time
    return talk, overlap


def _union(intervals: Iterable[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _intersect(first: Sequence[Interval], second: Sequence[Interval]) -> list[Interval]:
    found = []
    i = j = 0
    while i < len(first) and j < len(second):
        start, end = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if end > start:
            found.append((start, end))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return found


def _length(intervals: Iterable[Interval]) -> float:
    return sum(end - start for start, end in intervals)


def _round(seconds: float) -> float:
    """To the millisecond."""
    return round(seconds, 3)
