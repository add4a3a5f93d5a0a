"""How loud each channel is, and by how much faint speech is raised before it is looked for.

Silero misses speech far below the level it was trained on. A channel is raised to it only
where something stands out from its noise: a steady hiss stays what it is.
"""

from __future__ import annotations

import numpy as np

from speechmeta.audio.types import FloatArray

TARGET_DB = -25.0
"""RMS in dB full scale to which the louder windows of a faint channel are raised."""

HIGHEST_DB = -10.0
"""The loudest windows are never raised beyond this."""

MOST_GAIN_DB = 50.0

STANDS_OUT_DB = 12.0
"""By how much these windows exceed the quiet ones where there may be speech."""

_LOWEST_DB = -120
_LOUD_SHARE = 0.97
_QUIET_SHARE = 0.15
_LOUDEST_SHARE = 0.999


class LevelSpread:
    """Counts the levels of all windows of all channels, in steps of 1 dB.

    Args:
        channels: rows of the blocks. window: samples of a window.
    """

    def __init__(self, channels: int, window: int) -> None:
        self._window = window
        self._counts = np.zeros((channels, -_LOWEST_DB + 1), np.int64)

    def push(self, block: FloatArray) -> None:
        """Takes samples (channels, n); what is left of a window at the end is not counted."""
        count = block.shape[1] // self._window
        windows = block[:, : count * self._window].reshape(len(block), count, self._window)
        power = windows.var(axis=2, dtype=np.float32)
        level = 10 * np.log10(np.maximum(power, 1e-12))
        steps = np.clip(np.round(level - _LOWEST_DB), 0, -_LOWEST_DB).astype(np.int64)
        for row, counts in zip(steps, self._counts, strict=True):
            counts += np.bincount(row, minlength=len(counts))

    def gains(self) -> FloatArray:
        """The factor (channels,) for each channel, at least 1."""
        gains = np.ones(len(self._counts), np.float32)
        for channel, counts in enumerate(self._counts):
            # Digital silence says nothing of a line's noise.
            sounding = counts.copy()
            sounding[0] = 0
            if not sounding.any():
                continue
            reached = np.cumsum(sounding) / sounding.sum()
            loud = int(np.searchsorted(reached, _LOUD_SHARE)) + _LOWEST_DB
            quiet = int(np.searchsorted(reached, _QUIET_SHARE)) + _LOWEST_DB
            loudest = int(np.searchsorted(reached, _LOUDEST_SHARE)) + _LOWEST_DB
            if loud - quiet >= STANDS_OUT_DB:
                # A party that seldom talks must not be raised beyond full scale.
                room = min(TARGET_DB - loud, HIGHEST_DB - loudest)
                gain = np.clip(room, 0.0, MOST_GAIN_DB)
                gains[channel] = 10 ** (gain / 20)
        return gains
