"""Speech that several signals carry, found while a call goes on as it is found in its file.

What a file is compared in are segments of half a second that begin at fixed places, within blocks
of ten seconds. Here they begin at the same places. A segment counts for good once all that its
comparison looks at is there; until then what is known of it stands in, as if the call ended now.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from speechmeta.audio.types import FloatArray
from speechmeta.segmentation.crosstalk import HOP_WINDOWS, SEGMENT_WINDOWS, Votes, segment_starts
from speechmeta.segmentation.sharing import Sharing

BoolArray = npt.NDArray[np.bool_]


class LiveSharing(Sharing):
    """As `Sharing`, of signals that come piece by piece, whatever the size of the pieces.

    Args:
        signals, window, rate, threshold: as of `Sharing`.
        block: windows of the blocks in which a file is compared.
    """

    def __init__(self, signals: int, window: int, rate: int, threshold: float, block: int) -> None:
        super().__init__(signals, window, rate, threshold)
        self._block = block
        nothing = np.zeros((signals, 0), np.bool_)
        self._past, self._past_alike = nothing, np.zeros((signals, signals, 0), np.bool_)
        self._begin(self._before)

    def push(self, signals: FloatArray, probabilities: FloatArray) -> None:
        """Takes samples (signals, n) and the probabilities (signals, windows) of speech."""
        speech = probabilities >= self._threshold
        taken = 0
        while taken < speech.shape[1]:
            room = self._history + self._block - self._votes.windows
            part = slice(taken, taken + room)
            self._votes.push(
                signals[:, taken * self._window : (taken + room) * self._window], speech[:, part]
            )
            taken += room
            self._count()
            if self._votes.windows == self._history + self._block:
                self._past, self._past_alike = self._leaked[0], self._alike[0]
                self._begin(self._votes.last(self._history))

    def forget(self, probabilities: FloatArray) -> None:
        """See `Sharing.forget`."""
        count = probabilities.shape[1]
        super().forget(probabilities)
        held = self._past.shape[1]
        self._past, self._past_alike = self._past[:, count:], self._past_alike[:, :, count:]
        self._hidden += max(0, count - held)

    def _begin(self, before: FloatArray) -> None:
        """Begins a block, of which nothing is known but the samples before it."""
        speech = np.zeros((len(before), self._history), np.bool_)
        self._votes = Votes(len(before), self._window, self._rate)
        self._votes.push(before, speech)
        self._certain = 0
        self._hidden = self._history

    def _count(self) -> None:
        """Compares what can be compared now."""
        known = self._votes.windows
        while self._certain + SEGMENT_WINDOWS + self._history <= known:
            self._votes.add(self._certain)
            self._certain += HOP_WINDOWS
        so_far = self._votes.copy()
        for first in segment_starts(known):
            if first >= self._certain:
                so_far.add(first)
        leaked, alike = so_far.result()
        self._leaked = [np.concatenate([self._past, leaked[:, self._hidden :]], axis=1)]
        if self._compares:
            parts = [self._past_alike, alike[:, :, self._hidden :]]
            self._alike = [np.concatenate(parts, axis=2)]


__all__ = ["LiveSharing"]
