"""Speech that several signals of a call carry counts for one of them.

A leak belongs to the louder side. Where both are alike (a mix beside its parts, a copy through
a codec, late, or with a noise of its own), speech belongs to the signal that has the least
speech: a mix gives up what its parts hold, of two equal copies the later one is given up.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from speechmeta.audio.types import FloatArray
from speechmeta.segmentation.crosstalk import MAX_DELAY_SECONDS, shared_windows
from speechmeta.segmentation.turns import runs

BoolArray = npt.NDArray[np.bool_]

RUN_SHARE = 0.5
"""A run of speech of which this share is another signal's is so as a whole."""

COPY_SHARE = 0.75
"""Share of a signal's speech from which, being another's, all of it is."""

_MOST_SIGNALS = 16
_SAME_WINDOWS = 16
_SAME_SHARE = 0.1


class Sharing:
    """Gathers, block by block, which windows of speech are also in another signal.

    Args:
        signals: count. window: samples of a window. rate: Hz.
        threshold: probability from which a window is speech.
    """

    def __init__(self, signals: int, window: int, rate: int, threshold: float) -> None:
        self._window, self._rate = window, rate
        self._threshold = max(threshold - 0.15, threshold / 4)
        # What was played before the block may arrive late within it.
        self._history = -(-round(MAX_DELAY_SECONDS * rate) // window)
        self._before = np.zeros((signals, self._history * window), np.float32)
        self._leaked: list[BoolArray] = []
        self._alike: list[BoolArray] = []
        self._compares = signals <= _MOST_SIGNALS
        self._spoken = np.zeros(signals, np.int64)
        self._forgotten = 0

    @property
    def leaked_windows(self) -> int:
        """How many windows were leaked in."""
        return self._forgotten + sum(int(part.sum()) for part in self._leaked)

    def forget(self, probabilities: FloatArray) -> None:
        """Drops the first windows, whose probabilities (signals, windows) these are: for calls
        that still go on. How much was said in them counts on for `foreign`."""
        count = probabilities.shape[1]
        self._spoken += (probabilities >= self._threshold).sum(axis=1)
        leaked = np.concatenate(self._leaked, axis=1)
        self._forgotten += int(leaked[:, :count].sum())
        self._leaked = [leaked[:, count:]]
        if self._alike:
            self._alike = [np.concatenate(self._alike, axis=2)[:, :, count:]]

    def push(self, signals: FloatArray, probabilities: FloatArray) -> None:
        """Takes samples (signals, n) and the probabilities (signals, windows) of speech."""
        speech = probabilities >= self._threshold
        joined = np.concatenate([self._before, signals], axis=1)
        padded = np.pad(speech, ((0, 0), (self._history, 0)))
        leaked, alike = shared_windows(joined, padded, self._window, self._rate)
        self._leaked.append(leaked[:, self._history :])
        if self._compares:
            self._alike.append(alike[:, :, self._history :])
        self._before = joined[:, joined.shape[1] - self._before.shape[1] :]

    def foreign(
        self, probabilities: FloatArray, copies: bool = True
    ) -> tuple[BoolArray, dict[tuple[int, int], int]]:
        """Which windows count for another signal, and (signal, other) -> windows alike.

        Args:
            probabilities: (signals, windows) of the whole recording, or of all windows that were
                pushed and not forgotten.
            copies: also between signals of like level, not leaks alone.
        """
        speech = probabilities >= self._threshold
        foreign = np.zeros(speech.shape, np.bool_)
        repeats: dict[tuple[int, int], int] = {}
        if not self._leaked:
            return foreign, repeats
        leaked = np.concatenate(self._leaked, axis=1)
        for index in np.flatnonzero(leaked.any(axis=1)):
            foreign[index] = _whole_runs(speech[index], leaked[index])
        if not self._alike or not copies:
            return foreign, repeats
        alike = np.concatenate(self._alike, axis=2)
        alive = speech & ~foreign
        reach = round(MAX_DELAY_SECONDS * self._rate / self._window)
        for row in _by_speech(self._spoken + speech.sum(axis=1)):
            # A late copy goes on when its original may be over.
            theirs = np.stack([_widened(other, reach) for other in alive])
            theirs[row] = False
            same = alike[row] & theirs & alive[row]
            taken = _whole_runs(alive[row], same.any(axis=0))
            if not taken.any():
                continue
            if taken.sum() >= COPY_SHARE * alive[row].sum():
                # A copy as a whole: what a codec or a noise changed too much goes with the rest.
                taken |= alive[row] & theirs[same.any(axis=1)].any(axis=0)
            foreign[row] |= taken
            alive[row] &= ~taken
            for other in np.flatnonzero(same.any(axis=1)):
                repeats[row, int(other)] = int(same[other].sum())
        return foreign, repeats


def _by_speech(windows: npt.NDArray[np.int64]) -> list[int]:
    """Rows from the most speech to the least; of those that hardly differ the last first."""
    order = sorted(range(len(windows)), key=lambda row: -windows[row])
    groups: list[list[int]] = []
    for row in order:
        most = windows[groups[-1][0]] if groups else 0
        if groups and most - windows[row] <= max(_SAME_WINDOWS, _SAME_SHARE * most):
            groups[-1].append(row)
        else:
            groups.append([row])
    return [row for group in groups for row in sorted(group, reverse=True)]


def _whole_runs(speech: BoolArray, found: BoolArray) -> BoolArray:
    """`found`, and all of each run of speech of which it is most."""
    whole = found.copy()
    for first, last in runs(speech):
        if found[first:last].mean() >= RUN_SHARE:
            whole[first:last] = True
    return whole


def _widened(mask: BoolArray, reach: int) -> BoolArray:
    """True also within `reach` of what is."""
    sums = np.concatenate([[0], np.cumsum(mask)])
    places = np.arange(len(mask))
    first = np.maximum(0, places - reach)
    last = np.minimum(len(mask), places + reach + 1)
    wide: BoolArray = sums[last] > sums[first]
    return wide
