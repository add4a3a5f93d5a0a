"""Diarization error: missed speech, false alarms and confused speakers, by exact times.

Reference and answer are lists of (start, end, speaker). Speakers of the answer are matched to
those of the reference so that they agree for the longest time; what remains is the error, as
a share of the reference's speech (NIST's definition; no collar unless asked for).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Segment = tuple[float, float, Hashable]


@dataclass(frozen=True)
class DiarizationError:
    """Seconds of each kind of error, and of reference speech."""

    missed: float
    false_alarm: float
    confusion: float
    speech: float

    @property
    def rate(self) -> float:
        """The error rate; may exceed 1."""
        return (self.missed + self.false_alarm + self.confusion) / self.speech

    def __add__(self, other: DiarizationError) -> DiarizationError:
        return DiarizationError(
            self.missed + other.missed,
            self.false_alarm + other.false_alarm,
            self.confusion + other.confusion,
            self.speech + other.speech,
        )


def diarization_error(
    reference: Sequence[Segment], answer: Sequence[Segment], collar: float = 0.0
) -> DiarizationError:
    """Compares two lists of segments in seconds.

    Args:
        collar: seconds around each boundary of the reference that do not count.

    Raises:
        ValueError: the reference has no speech.
    """
    truth = sorted({speaker for _, _, speaker in reference}, key=str)
    found = sorted({speaker for _, _, speaker in answer}, key=str)
    edges = sorted({time for start, end, _ in [*reference, *answer] for time in (start, end)})
    if collar > 0:
        near = [(time - collar, time + collar) for s, e, _ in reference for time in (s, e)]
        edges = sorted({*edges, *(time for pair in near for time in pair)})
    else:
        near = []
    together = np.zeros((len(truth), len(found)))
    moments = []
    for start, end in pairwise(edges):
        middle = (start + end) / 2
        if any(low < middle < high for low, high in near):
            continue
        said = _at(reference, middle)
        answered = _at(answer, middle)
        moments.append((end - start, said, answered))
        for one in said:
            for other in answered:
                together[truth.index(one), found.index(other)] += end - start
    match = _best_match(together)
    pairs = {(truth[one], found[other]) for one, other in match}
    missed = false_alarm = confusion = speech = 0.0
    for length, said, answered in moments:
        right = sum((one, other) in pairs for one in said for other in answered)
        speech += length * len(said)
        missed += length * max(0, len(said) - len(answered))
        false_alarm += length * max(0, len(answered) - len(said))
        confusion += length * (min(len(said), len(answered)) - right)
    if speech <= 0:
        raise ValueError("the reference has no speech")
    return DiarizationError(missed, false_alarm, confusion, speech)


def matched_speakers(
    reference: Sequence[Segment], answer: Sequence[Segment]
) -> dict[Hashable, Hashable]:
    """The speaker of the reference that each of the answer stands for; some may have none."""
    truth = sorted({speaker for _, _, speaker in reference}, key=str)
    found = sorted({speaker for _, _, speaker in answer}, key=str)
    together = np.zeros((len(truth), len(found)))
    for start, end, one in reference:
        for first, last, other in answer:
            both = min(end, last) - max(start, first)
            together[truth.index(one), found.index(other)] += max(0.0, both)
    return {found[other]: truth[one] for one, other in _best_match(together)}


def _at(segments: Iterable[Segment], time: float) -> set[Hashable]:
    return {speaker for start, end, speaker in segments if start <= time < end}


def _best_match(together: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column), each used once, with the largest sum."""
    from scipy.optimize import linear_sum_assignment

    if not together.size:
        return []
    rows, columns = linear_sum_assignment(-together)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))
