"""Long audio in pieces that a model was made for.

Speech models silently cut or degrade beyond the length they were trained on. Here a long
waveform is cut at its quietest places: nothing is left out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from speechmeta.audio.loading import SAMPLE_RATE

MAX_WINDOW_SECONDS = 30.0
"""Longest piece that is decoded at once."""

SEARCH_SHARE = 0.4
"""Share of a piece, at its end, in which the quietest place is looked for."""

FRAME_SECONDS = 0.1
"""Length over which loudness is measured: longer than the closure of a stop consonant, so
that a cut falls between words."""


def cut_quietly(
    waveform: npt.NDArray[np.float32], max_seconds: float = MAX_WINDOW_SECONDS
) -> list[tuple[int, int]]:
    """Bounds (start, end) in samples of pieces of at most `max_seconds`, without gaps.

    Args:
        waveform: (samples,) at 16 kHz.
    """
    longest = max(1, round(max_seconds * SAMPLE_RATE))
    frame = max(1, min(round(FRAME_SECONDS * SAMPLE_RATE), longest // 4))
    bounds = []
    start = 0
    while len(waveform) - start > longest:
        first = start + round(longest * (1 - SEARCH_SHARE))
        stretch = waveform[first : start + longest].astype(np.float64)
        sums = np.concatenate([[0.0], np.cumsum(stretch**2)])
        energy = sums[frame:] - sums[:-frame]
        end = first + int(energy.argmin()) + frame // 2
        bounds.append((start, end))
        start = end
    return [*bounds, (start, len(waveform))]
