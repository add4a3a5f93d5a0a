"""Where turns begin and end: from speech probabilities and levels to spans of samples.

Pure functions over arrays; the probabilities come from `speechmeta.segmentation.vad`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from speechmeta.audio.types import FloatArray
from speechmeta.segmentation.chunking import divide
from speechmeta.settings import OptionError, Options, option

BoolArray = npt.NDArray[np.bool_]

THRESHOLDS = {8000: 0.35, 16000: 0.4}
"""Speech probability from which a window is speech, by rate in Hz.

At the telephone's bandwidth Silero is less sure: of the loud windows of real recordings 0.5
finds 93 % at 16 kHz, but 90 % after band-limiting and G.711; 0.35 finds 92 % there, with
false alarms in 1 % of the windows of noises. At 16 kHz it stays below Silero's own 0.5 because
a telephone recording may have been saved at that rate.
"""

LEVELS_PER_WINDOW = 4
"""Levels are kept for every 8 ms, four to a window of the speech detector."""

_PANEL = "Turns and speakers"


class TurnOptions(Options):
    """How a channel is divided into turns.

    Raises:
        UsageError: an option is not known or cannot take its value.
    """

    threshold: float | None = option(
        None,
        "Speech probability (0 to 1) from which a window of 32 ms is speech; speech goes on until "
        "it falls 0.15 below. A lower threshold finds fainter speech, and more noise.",
        unset="0.35 at 8 kHz, 0.4 at 16 kHz",
        flag="vad-threshold",
        panel=_PANEL,
        gt=0.0,
        lt=1.0,
    )
    min_pause_seconds: float = option(
        0.6,
        "Seconds of pause that end a turn; shorter pauses are part of it.",
        flag="min-pause",
        panel=_PANEL,
        ge=0.0,
    )
    min_turn_seconds: float = option(
        0.2,
        "Shortest speech in seconds that makes a turn; less (a click, a cough) counts as skipped.",
        flag="min-turn",
        panel=_PANEL,
        ge=0.0,
    )
    max_turn_seconds: float = option(
        15.0,
        "Longest turn in seconds, padding included; longer speech is cut at the quietest point of "
        "the second half of that time.",
        flag="max-turn",
        panel=_PANEL,
        ge=0.0,
        le=86_400.0,
    )
    padding_seconds: float = option(
        0.2,
        "Seconds before and after a turn that the model gets too, at most half the pause to the "
        "next turn. The turn's start and end are those of its speech.",
        flag="padding",
        panel=_PANEL,
        ge=0.0,
        le=43_200.0,
    )

    second_look: bool = option(
        True,
        "Show the model's SpeechActivity head what is loud although no speech was found in it (a "
        "shout, say); what it calls speech becomes a turn.",
        flag="second-look",
        panel=_PANEL,
    )

    overlap: bool = option(
        True,
        "On a channel of several speakers, look for moments in which two talk at once.",
        flag="overlap",
        panel=_PANEL,
    )

    @model_validator(mode="after")
    def _room_for_speech(self) -> Self:
        if self.speech_limit_seconds < max(1.0, 2 * self.min_turn_seconds):
            raise OptionError(
                f"turns of at most {self.max_turn_seconds:g} s (max_turn_seconds) leave "
                f"{max(0.0, self.speech_limit_seconds):.2f} s of speech beside "
                f"{self.padding_seconds:g} s on either side (padding_seconds)",
                "they have to leave at least 1 s and twice min_turn_seconds",
                "max_turn_seconds",
            )
        return self

    @property
    def speech_limit_seconds(self) -> float:
        """The longest turn without its context."""
        return self.max_turn_seconds - 2 * self.padding_seconds

    def threshold_at(self, rate: int) -> float:
        """The threshold for a rate of 8000 or 16000 Hz."""
        return THRESHOLDS[rate] if self.threshold is None else self.threshold


@dataclass(frozen=True)
class Speech:
    """A run of speech of one speaker, `start` to `end` in samples."""

    start: int
    end: int
    speaker: int = 0

    @property
    def samples(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Span(Speech):
    """A turn, and the stretch from `clip_start` to `clip_end` that the model gets of it."""

    clip_start: int = 0
    clip_end: int = 0


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


def in_samples(regions: Iterable[tuple[int, int]], window: int, samples: int) -> list[Speech]:
    """Runs of windows as samples of a signal of that length."""
    found = [Speech(first * window, min(last * window, samples)) for first, last in regions]
    return [run for run in found if run.samples > 0]


def find_turns(
    runs_of_speech: Sequence[Speech],
    levels: FloatArray,
    options: TurnOptions,
    *,
    rate: int,
    hop: int,
    samples: int,
    begin: int = 0,
    since: int | None = None,
) -> FoundTurns:
    """Makes turns from the runs of speech of one channel, or of a part of it.

    Args:
        runs_of_speech: in order of time, without overlap; a change of speaker ends a turn.
        levels: mean power of every `hop` samples of the channel.
        options: lengths in seconds.
        rate: Hz. samples: length of the channel.
        begin: where the channel begins. since: where the turn before these ended; None where
            there is none.
    """
    pause = options.min_pause_seconds * rate
    merged: list[tuple[Speech, int]] = []  # a turn, and the samples of speech in it
    for run in runs_of_speech:
        if merged:
            before, speech = merged[-1]
            if before.speaker == run.speaker and run.start - before.end < pause:
                joined = Speech(before.start, run.end, run.speaker)
                merged[-1] = (joined, speech + run.samples)
                continue
        merged.append((run, run.samples))
    shortest = options.min_turn_seconds * rate
    skipped = sum(turn.samples for turn, speech in merged if speech < shortest)
    limit = round(options.speech_limit_seconds * rate)
    parts = [
        Speech(start, end, turn.speaker)
        for turn, speech in merged
        if speech >= shortest
        for start, end in divide(turn.start, turn.end, limit, levels, hop)
    ]
    room = begin, since, samples
    return FoundTurns(
        tuple(_with_context(parts, round(options.padding_seconds * rate), room)), skipped
    )


def _with_context(
    parts: Sequence[Speech], padding: int, room: tuple[int, int | None, int]
) -> Iterator[Span]:
    begin, since, samples = room
    for index, part in enumerate(parts):
        ended = parts[index - 1].end if index else since
        before = part.start - begin if ended is None else (part.start - ended) // 2
        last = index == len(parts) - 1
        after = samples - part.end if last else (parts[index + 1].start - part.end) // 2
        yield Span(
            part.start,
            part.end,
            part.speaker,
            part.start - min(padding, before),
            part.end + min(padding, after),
        )
