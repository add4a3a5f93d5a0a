"""Where turns begin and end: from speech probabilities and levels to spans of samples.

Pure functions over arrays; the probabilities come from `speechmeta.vad`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from speechmeta.container import FloatArray
from speechmeta.errors import UsageError

BoolArray = npt.NDArray[np.bool_]

THRESHOLDS = {8000: 0.35, 16000: 0.5}
"""Speech probability from which a window is speech, by rate in Hz. At the telephone's
bandwidth Silero is less sure: 0.35 finds there what 0.5 finds in wideband recordings, at the
same share of false alarms."""

LEVELS_PER_WINDOW = 4
"""Levels are kept for every 8 ms, four to a window of the speech detector."""

_SMOOTHING_LEVELS = 5


@dataclass(frozen=True)
class TurnOptions:
    """How a channel is divided into turns.

    Attributes:
        threshold: speech probability (0 to 1) from which a window of 32 ms is speech; speech
            goes on until it falls 0.15 below. None: 0.35 at 8 kHz, 0.5 at 16 kHz. Lower
            finds fainter speech and more noise.
        min_pause_seconds: a pause at least this long ends a turn; shorter pauses, such as
            between two words, are part of it.
        min_turn_seconds: speech shorter than this (a click, a cough) is no turn; its seconds
            count as skipped.
        max_turn_seconds: longest turn, context included. Longer speech is cut at the quietest
            point of the second half of that time.
        padding_seconds: context before and after a turn that the model hears too, at most
            half the pause to the neighbouring turn. `start` and `end` of the turn are
            those of its speech, without the context.
    """

    threshold: float | None = None
    min_pause_seconds: float = 0.6
    min_turn_seconds: float = 0.2
    max_turn_seconds: float = 15.0
    padding_seconds: float = 0.2

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name == "threshold":
                continue
            if not isinstance(value, (int, float)) or not np.isfinite(value) or value < 0:
                raise UsageError(
                    f"turn option {field.name} is {value!r}", "give a number that is not negative"
                )
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UsageError(
                f"the speech threshold is {self.threshold}", "give a number between 0 and 1"
            )
        if self.speech_limit_seconds < max(1.0, 2 * self.min_turn_seconds):
            raise UsageError(
                f"max_turn_seconds {self.max_turn_seconds} leaves "
                f"{self.speech_limit_seconds:.2f} s of speech beside the padding",
                "it has to leave at least 1 s and twice min_turn_seconds",
            )

    @property
    def speech_limit_seconds(self) -> float:
        """The longest turn without its context."""
        return self.max_turn_seconds - 2 * self.padding_seconds

    def threshold_at(self, rate: int) -> float:
        """The threshold for a rate of 8000 or 16000 Hz."""
        return THRESHOLDS[rate] if self.threshold is None else self.threshold


@dataclass(frozen=True)
class Span:
    """A turn in samples: its speech from `start` to `end`, heard from `clip_start` to
    `clip_end`."""

    start: int
    end: int
    clip_start: int
    clip_end: int

    @property
    def samples(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class FoundTurns:
    """The turns of one channel, and what was left out for being too short (in samples)."""

    spans: tuple[Span, ...]
    skipped_samples: int


def speech_regions(probabilities: FloatArray, threshold: float) -> list[tuple[int, int]]:
    """Runs of speech as (first, last + 1) windows, with hysteresis.

    A run begins where the probability (windows,) reaches `threshold` and goes on until it
    falls more than 0.15 below.
    """
    going_on = runs(probabilities >= max(threshold - 0.15, threshold / 4))
    found = []
    for first, end in going_on:
        above = np.flatnonzero(probabilities[first:end] >= threshold)
        if above.size:
            found.append((first + int(above[0]), end))
    return found


def runs(mask: BoolArray) -> list[tuple[int, int]]:
    """Stretches of True as (first, last + 1)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


def find_turns(
    regions: Sequence[tuple[int, int]],
    levels: FloatArray,
    options: TurnOptions,
    *,
    rate: int,
    window: int,
    samples: int,
) -> FoundTurns:
    """Makes turns from the runs of speech of one channel or one speaker.

    Args:
        regions: (first, last + 1) windows in order of time, as from `speech_regions`.
        levels: mean power of every `window / LEVELS_PER_WINDOW` samples of the channel.
        options: lengths in seconds.
        rate: Hz. window: samples of a window. samples: length of the channel.
    """
    pause = options.min_pause_seconds * rate
    merged: list[tuple[int, int, int]] = []  # start, end, samples of speech in between
    for first, last in regions:
        start, end = first * window, min(last * window, samples)
        if end <= start:
            continue
        if merged and start - merged[-1][1] < pause:
            before = merged[-1]
            merged[-1] = (before[0], end, before[2] + end - start)
        else:
            merged.append((start, end, end - start))
    shortest = options.min_turn_seconds * rate
    kept = [(start, end) for start, end, speech in merged if speech >= shortest]
    skipped = sum(end - start for start, end, speech in merged if speech < shortest)
    limit = round(options.speech_limit_seconds * rate)
    parts = [
        part
        for start, end in kept
        for part in _divide(start, end, limit, levels, window // LEVELS_PER_WINDOW)
    ]
    return FoundTurns(tuple(_with_context(parts, options, rate, samples)), skipped)


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


def _divide(
    start: int, end: int, limit: int, levels: FloatArray, hop: int
) -> Iterable[tuple[int, int]]:
    while end - start > limit:
        # Equal parts would leave a rest that is no shorter than half the limit; so does this.
        latest = min(start + limit, end - limit // 4)
        cut = quietest(levels, hop, start + limit // 2, latest)
        yield start, cut
        start = cut
    yield start, end


def _with_context(
    parts: Sequence[tuple[int, int]], options: TurnOptions, rate: int, samples: int
) -> Iterable[Span]:
    padding = round(options.padding_seconds * rate)
    for index, (start, end) in enumerate(parts):
        before = start if index == 0 else (start - parts[index - 1][1]) // 2
        after = samples - end if index == len(parts) - 1 else (parts[index + 1][0] - end) // 2
        yield Span(start, end, start - min(padding, before), end + min(padding, after))
