"""Long audio in pieces that a model was made for: the one place that cuts.

Speech models silently cut or degrade beyond the length they were trained on. Here audio is cut
where it is quietest, or in the middle of known pauses, and nothing is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.audio.types import FloatArray

MAX_WINDOW_SECONDS = 30.0
"""Longest piece that is decoded at once."""

_SMOOTHING_LEVELS = 5
_HOP_SECONDS = 0.02


def quietest(levels: FloatArray, hop: int, earliest: int, latest: int) -> int:
    """The sample from `earliest` to `latest` around which 40 ms are the quietest.

    Args:
        levels: mean power of every `hop` samples.
    """
    first = min(earliest // hop, len(levels) - 1)
    last = max(first + 1, min(latest // hop, len(levels)))
    reach = _SMOOTHING_LEVELS // 2
    lower = max(0, first - reach)
    padded = np.pad(levels[lower : last + reach], reach, mode="edge")
    smooth = np.convolve(padded, np.full(_SMOOTHING_LEVELS, 1 / _SMOOTHING_LEVELS), mode="valid")
    best = first + int(np.argmin(smooth[first - lower : last - lower]))
    return int(np.clip(best * hop + hop // 2, earliest, latest))


def divide(
    start: int, end: int, limit: int, levels: FloatArray, hop: int
) -> Iterator[tuple[int, int]]:
    """Pieces no longer than `limit` samples, cut at the quietest points, without gaps.

    Args:
        levels: mean power of every `hop` samples.
    """
    while end - start > limit:
        # The rest is never shorter than a quarter of the limit.
        latest = min(start + limit, end - limit // 4)
        cut = quietest(levels, hop, start + limit // 2, latest)
        yield start, cut
        start = cut
    yield start, end


def divide_at_pauses(
    samples: int, limit: int, speech: Sequence[tuple[int, int]]
) -> list[tuple[int, int, bool]]:
    """Pieces (start, end, in_speech) no longer than `limit` samples, without gaps.

    A cut lies in the middle of the last pause that the piece has; only where speech has no
    pause it lies in speech, and is marked.

    Args:
        samples: length of the audio.
        speech: where there is speech, as (start, end) in order.
    """
    edges = [0, *(edge for span in speech for edge in span), samples]
    pauses = [
        (left, right) for left, right in zip(edges[::2], edges[1::2], strict=True) if right > left
    ]
    pieces: list[tuple[int, int, bool]] = []
    start = 0
    while samples - start > limit:
        latest = start + limit
        cuts = [
            latest if right > latest else (left + right) // 2
            for left, right in pauses
            if left < latest
        ]
        cuts = [cut for cut in cuts if cut > start]
        cut = max(cuts, default=latest)
        pieces.append((start, cut, not cuts))
        start = cut
    pieces.append((start, samples, False))
    return pieces


def cut_quietly(
    waveform: FloatArray, max_seconds: float = MAX_WINDOW_SECONDS
) -> list[tuple[int, int]]:
    """Bounds (start, end) in samples of pieces of at most `max_seconds`, without gaps.

    Args:
        waveform: (samples,) at 16 kHz.
    """
    limit = max(1, round(max_seconds * SAMPLE_RATE))
    if len(waveform) <= limit:
        return [(0, len(waveform))]
    # Five levels are smoothed: 100 ms, longer than the closure of a stop consonant, so that a
    # cut falls between words.
    hop = max(1, min(round(_HOP_SECONDS * SAMPLE_RATE), limit // 25))
    whole = np.zeros(-(-len(waveform) // hop) * hop, np.float32)
    whole[: len(waveform)] = waveform
    levels: FloatArray = np.square(whole).reshape(-1, hop).mean(axis=1)
    return list(divide(0, len(waveform), limit, levels, hop))
