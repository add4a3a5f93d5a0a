"""Who else talks where two voices were found at once: the one who comes or goes.

The diarizer gives each moment to one speaker. The overlap detector is right about two moments of
three beside a change of speaker and about one of three elsewhere (recipes/overlap/LOG.md), so it is
believed there alone, where the second speaker is known too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from speechmeta.audio.types import FloatArray
from speechmeta.segmentation.turns import Speech, runs

FRAME_SECONDS = 0.04
"""What the detector tells one probability of."""

SHORTEST_SECONDS = 0.16
"""Shorter stretches of two voices are not believed."""

JOIN_SECONDS = 0.12

CHANGE_SECONDS = 0.6
"""How far from a change of speaker two voices are believed."""

CHANGE_PAUSE_SECONDS = 0.3
"""Speakers with a longer pause between them do not meet."""


def overlapped(
    probabilities: FloatArray, threshold: float, start: int, rate: int
) -> list[tuple[int, int]]:
    """Stretches of two voices in samples.

    Args:
        probabilities: (frames,) of 40 ms each, the first of which begins at sample `start`.
        threshold: from which a frame is overlap; a stretch goes on to a little below.
        rate: Hz.
    """
    found: list[list[int]] = []
    for first, end in runs(probabilities >= 0.7 * threshold):
        if probabilities[first:end].max() < threshold:
            continue
        if found and (first - found[-1][1]) * FRAME_SECONDS < JOIN_SECONDS:
            found[-1][1] = end
        else:
            found.append([first, end])
    frame = FRAME_SECONDS * rate
    return [
        (start + round(first * frame), start + round(end * frame))
        for first, end in found
        if (end - first) * FRAME_SECONDS >= SHORTEST_SECONDS
    ]


def changes(speech: Sequence[Speech], rate: int) -> list[tuple[Speech, Speech]]:
    """Neighbouring runs of different speakers with hardly a pause between them."""
    return [
        (before, after)
        for before, after in pairwise(speech)
        if before.speaker != after.speaker
        and after.start - before.end < CHANGE_PAUSE_SECONDS * rate
    ]


def second_speakers(
    speech: Sequence[Speech], regions: Sequence[tuple[int, int]], rate: int
) -> list[Speech]:
    """Runs of whoever talks beside the speaker of `speech`, in order of time.

    Before a change of speaker that is the one who comes, after it the one who goes.

    Args:
        speech: runs of one speaker each, in order of time, without overlap.
        regions: stretches of two voices, in order of time.
        rate: Hz.
    """
    reach = round(CHANGE_SECONDS * rate)
    found: list[Speech] = []
    for before, after in changes(speech, rate):
        first = max(before.start, before.end - reach)
        last = min(after.end, after.start + reach)
        for start, end in regions:
            begin, stop = max(start, first), min(end, last)
            if stop - begin < SHORTEST_SECONDS * rate:
                continue
            if begin < before.end:
                found.append(Speech(begin, min(stop, before.end), after.speaker))
            if stop > after.start:
                found.append(Speech(max(begin, after.start), stop, before.speaker))
    return sorted(found, key=lambda run: (run.start, run.end))
