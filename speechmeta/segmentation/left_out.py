"""Loud stretches in which the speech detector found nothing, and where they came from.

Silero leaves out shouts, laughter with words in it, and voices that a line distorts, at any
threshold that keeps music out. Such stretches stand out by their level alone; whether they are
speech has to be asked of a model that listens to them whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechmeta.audio.types import FloatArray
from speechmeta.segmentation.chunking import divide
from speechmeta.segmentation.crosstalk import ALIKE, EXPLAINED, LOUDER_RATIO, explained_share
from speechmeta.segmentation.levels import STANDS_OUT_DB
from speechmeta.segmentation.turns import LEVELS_PER_WINDOW, Speech, runs

BELOW_SPEECH_DB = 20.0
"""What is further below the louder speech of its channel is not asked about."""

SHORTEST_SECONDS = 0.2
JOIN_SECONDS = 0.3
"""Loud moments with shorter pauses between them are one stretch."""

IMPULSIVE = 0.01
"""Where half of the 8 ms of loud moments have less than this share of their mean power, the line
crackles; the head takes that for speech now and then."""

LONGEST_SECONDS = 3.0
"""A stretch is judged in pieces of this length, as speech may be in a part of it."""

_QUIET_PERCENTILE = 15
_LOUD_PERCENTILE = 75


def loud_stretches(
    levels: FloatArray, taken: Sequence[Speech], *, rate: int, hop: int, samples: int
) -> list[Speech]:
    """Stretches outside `taken` that stand well above the channel's noise.

    Args:
        levels: mean power of every `hop` samples of the channel, four to a window.
        taken: the turns, and what counts for another channel.
        rate: Hz. samples: length of the channel.
    """
    window = hop * LEVELS_PER_WINDOW
    count = len(levels) // LEVELS_PER_WINDOW
    power = levels[: count * LEVELS_PER_WINDOW].reshape(count, -1).mean(axis=1)
    free = np.ones(count, np.bool_)
    for turn in taken:
        free[turn.start // window : -(-turn.end // window)] = False
    sounding = power > 1e-12
    if not (free & sounding).any():
        return []
    db = 10 * np.log10(np.maximum(power, 1e-12))
    floor = float(np.percentile(db[sounding], _QUIET_PERCENTILE)) + STANDS_OUT_DB
    if (speech := ~free & sounding).any():
        loud = float(np.percentile(db[speech], _LOUD_PERCENTILE))
        floor = max(floor, loud - BELOW_SPEECH_DB)
    stands_out = free & (db >= floor)
    join = round(JOIN_SECONDS * rate / window)
    joined: list[tuple[int, int]] = []
    for first, end in runs(stands_out):
        if joined and first - joined[-1][1] < join and free[joined[-1][1] : first].all():
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((first, end))
    fewest = SHORTEST_SECONDS * rate / window
    parts = levels[: count * LEVELS_PER_WINDOW].reshape(count, -1)

    def clicks(first: int, last: int) -> bool:
        loud = parts[first:last][stands_out[first:last]]
        return bool(np.median(loud) < IMPULSIVE * loud.mean())

    limit = round(LONGEST_SECONDS * rate)
    return [
        Speech(start, end)
        for first, last in joined
        if stands_out[first:last].sum() >= fewest and not clicks(first, last)
        for start, end in divide(first * window, min(last * window, samples), limit, levels, hop)
    ]


def carried_by_another(block: FloatArray, row: int, begin: int, end: int, rate: int) -> bool:
    """Whether what a row has from `begin` to `end` belongs to another row of the block.

    Args:
        block: (rows, samples), with up to 0.45 s before and after the stretch.
    """
    energy = np.square(block[:, begin:end], dtype=np.float64).sum(axis=1)
    whole = np.square(block, dtype=np.float64).sum(axis=1)
    for other in range(len(block)):
        # Far below, it can be no source; what is late in it may be loud beside the stretch.
        if other == row or whole[other] * LOUDER_RATIO < energy[row]:
            continue
        share = explained_share(block[row], block[other], begin, end, rate)
        if whole[other] >= LOUDER_RATIO * energy[row]:
            if share >= EXPLAINED:
                return True
        elif share >= ALIKE and other < row:
            return True
    return False
