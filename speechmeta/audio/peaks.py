"""The outline of a waveform, small enough to draw: the loudest sample of every stretch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechmeta.schema import Peaks

WINDOW_SECONDS = 0.02
BINS = 72_000
_MOST_PARTS = 64


class PeakMeter:
    """Takes a file block by block and keeps one number per 20 ms and channel.

    Args:
        sample_rate: of the blocks, in Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._window = max(1, round(sample_rate * WINDOW_SECONDS))
        self._rest: NDArray[np.float32] | None = None
        self._maxima: list[NDArray[np.float32]] = []
        self._samples = 0

    def add(self, block: NDArray[Any]) -> None:
        """Adds the next samples, shape (channels, n)."""
        values = np.nan_to_num(np.abs(block.astype(np.float32)), nan=0.0, posinf=1.0)
        self._samples += values.shape[-1]
        if self._rest is not None:
            values = np.concatenate([self._rest, values], axis=-1)
        whole = values.shape[-1] // self._window * self._window
        if whole:
            parts = values[:, :whole].reshape(values.shape[0], -1, self._window)
            self._maxima.append(parts.max(axis=-1))
            if len(self._maxima) >= _MOST_PARTS:
                # A call that goes on comes in pieces so small that each costs more than it holds.
                self._maxima = [np.concatenate(self._maxima, axis=-1)]
        self._rest = values[:, whole:].copy()

    def peaks(self, bins: int = BINS) -> Peaks:
        """The outline so far, at most `bins` values a channel.

        All channels share one scale, so that a quiet side looks quiet; the square
        root keeps soft speech visible.
        """
        parts = list(self._maxima)
        if self._rest is not None and self._rest.shape[-1]:
            parts.append(self._rest.max(axis=-1, keepdims=True))
        duration = self._samples / self._rate
        if not parts:
            return Peaks(duration, ())
        values = np.concatenate(parts, axis=-1)
        count = values.shape[-1]
        bins = min(bins, count)
        edges = np.arange(bins) * count // bins
        reduced = np.maximum.reduceat(values, edges, axis=-1)
        loudest = float(reduced.max())
        scaled = np.sqrt(reduced / loudest) * 100 if loudest > 0 else reduced * 0
        return Peaks(duration, tuple(tuple(int(v) for v in row) for row in np.rint(scaled)))
