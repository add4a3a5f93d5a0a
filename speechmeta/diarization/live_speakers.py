"""Who speaks on one channel of a call that still goes on.

Each stretch of talk is told apart together with what was said before, by the code that tells the
speakers of a file apart, and the speakers keep their numbers. What is remembered of a call is
bounded: the last two minutes of talk, and some of whoever was silent in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from speechmeta.audio.types import FloatArray
from speechmeta.diarization.diarizer import (
    HOP_SECONDS,
    JOIN_SECONDS,
    SHORT_HOP_SECONDS,
    SHORT_JOIN_SECONDS,
    SHORT_WINDOW_SECONDS,
    WINDOW_SECONDS,
    diarize,
    windows_of,
)
from speechmeta.diarization.embeddings import Embedder, Matrix
from speechmeta.segmentation.turns import Speech

REMEMBERED_SECONDS = 120.0
"""Talk that new talk is compared with."""

OF_EACH_SECONDS = 12.0
"""Of nobody is less than this forgotten."""

FEWEST_SECONDS = 4.0
"""With less talk than this so far, all of it is one speaker's."""

CROWDED_SECONDS = 20.0
"""Before so much talk no number of speakers is held to: the first may well talk alone."""

_GAP_SECONDS = 1.0

CutOut = Callable[[int, int], FloatArray]
"""The waveform at 16 kHz of a stretch, by its first and last sample."""


@dataclass
class Talk:
    """A stretch of talk that is remembered; times in samples from its own start.

    Attributes:
        parts: who speaks when, as it is thought now.
    """

    runs: list[Speech]
    levels: FloatArray
    vectors: dict[tuple[int, int], Matrix]
    parts: list[Speech] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return sum(run.samples for run in self.runs)

    @property
    def length(self) -> int:
        return self.runs[-1].end

    def speaker_of(self, start: int, end: int) -> int:
        """Who talks most from `start` to `end`."""
        talk: dict[int, int] = {}
        for part in self.parts:
            shared = min(part.end, end) - max(part.start, start)
            if shared > 0:
                talk[part.speaker] = talk.get(part.speaker, 0) + shared
        return max(talk, key=talk.__getitem__, default=0)


class LiveSpeakers:
    """Tells the speakers of stretches of talk apart as they come.

    Args:
        embedder: None where nothing tells voices apart: all is one speaker's.
        rate: Hz of the samples. hop: samples of a level.
        speakers: how many there are; None to find out.
    """

    def __init__(
        self, embedder: Embedder | None, rate: int, hop: int, speakers: int | None = None
    ) -> None:
        self._embedder = embedder
        self._rate, self._hop, self._asked = rate, hop, speakers
        self._remembered: list[Talk] = []
        self._count = 1

    def tell(
        self,
        runs: Sequence[Speech],
        levels: FloatArray,
        cut: CutOut,
        known: dict[tuple[int, int], Matrix],
    ) -> Talk:
        """A stretch of talk by speakers, numbered from 0 in the order in which they were found.

        Args:
            runs: in samples; the first begins with the stretch, at 0.
            levels: mean power of every `hop` samples from there on.
            cut: gives the sound of a part of it.
            known: vectors of its windows; those that were missing are added.
        """
        talk = Talk(list(runs), levels, known)
        talk.parts = [Speech(run.start, run.end) for run in runs]
        together = [*self._remembered, talk]
        seconds = sum(item.samples for item in together) / self._rate
        if self._embedder is None or self._asked == 1 or seconds < FEWEST_SECONDS:
            return talk
        places, all_runs, all_levels = self._laid_out(together)

        def embed(windows: Sequence[tuple[int, int]]) -> Matrix:
            own = [_own(window, places) for window in windows]
            self._learn(talk, [bounds for index, bounds in own if index == len(together) - 1], cut)
            return np.stack([_vector(together[index], bounds) for index, bounds in own])

        parts = self._told(all_runs, embed, all_levels, seconds)
        self._name(together, places, parts)
        return talk

    def remember(self, talk: Talk, cut: CutOut) -> None:
        """Keeps a stretch that has ended, to compare others with."""
        if self._embedder is None or self._asked == 1:
            return
        needed = [
            (int(start), int(end))
            for seconds, hop, join in (
                (WINDOW_SECONDS, HOP_SECONDS, JOIN_SECONDS),
                (SHORT_WINDOW_SECONDS, SHORT_HOP_SECONDS, SHORT_JOIN_SECONDS),
            )
            for start, end in windows_of(talk.runs, self._rate, seconds, hop, join)
        ]
        self._learn(talk, needed, cut)
        talk.vectors = {bounds: talk.vectors[bounds] for bounds in needed}
        self._remembered.append(talk)
        known = {part.speaker for item in self._remembered for part in item.parts}
        self._count = max(self._count, *(number + 1 for number in known))
        while sum(item.samples for item in self._remembered) > REMEMBERED_SECONDS * self._rate:
            of_each: dict[int, int] = {}
            for item in self._remembered:
                for part in item.parts:
                    of_each[part.speaker] = of_each.get(part.speaker, 0) + part.samples
            least = OF_EACH_SECONDS * self._rate
            for item in self._remembered:
                left = dict(of_each)
                for part in item.parts:
                    left[part.speaker] -= part.samples
                if all(left[part.speaker] >= least for part in item.parts):
                    break
            else:
                item = self._remembered[0]
            self._remembered.remove(item)

    def _learn(self, talk: Talk, windows: Sequence[tuple[int, int]], cut: CutOut) -> None:
        """Embeds those windows of a stretch that are not yet known."""
        missing = [bounds for bounds in dict.fromkeys(windows) if bounds not in talk.vectors]
        if missing and self._embedder is not None:
            found = self._embedder.embed([cut(*bounds) for bounds in missing])
            talk.vectors.update(zip(missing, found, strict=True))

    def _laid_out(self, together: Sequence[Talk]) -> tuple[list[int], list[Speech], FloatArray]:
        """The stretches one after the other, as if a pause divided each two of them."""
        gap = round(_GAP_SECONDS * self._rate / self._hop)
        places: list[int] = []
        runs: list[Speech] = []
        levels: list[FloatArray] = []
        place = 0
        for item in together:
            places.append(place * self._hop)
            runs += [Speech(run.start + places[-1], run.end + places[-1]) for run in item.runs]
            count = -(-item.length // self._hop)
            levels += [item.levels[:count], np.zeros(gap, np.float32)]
            place += len(levels[-2]) + gap
        return places, runs, np.concatenate(levels)

    def _told(
        self,
        runs: Sequence[Speech],
        embed: Callable[[Sequence[tuple[int, int]]], Matrix],
        levels: FloatArray,
        seconds: float,
    ) -> list[Speech]:
        if self._embedder is None:
            raise RuntimeError("nothing tells voices apart")
        tell = partial(
            diarize,
            runs,
            embed,
            levels,
            distance=self._embedder.distance,
            rate=self._rate,
            hop=self._hop,
            spread=self._embedder.spread,
        )
        parts = tell()
        found = max(part.speaker for part in parts) + 1
        asked = self._asked
        if asked is None or found == asked or (found < asked and seconds < CROWDED_SECONDS):
            return parts
        if found < asked and self._count < asked:
            # Somebody may not have said a word yet.
            return parts
        return tell(speakers=asked)

    def _name(self, together: Sequence[Talk], places: Sequence[int], parts: list[Speech]) -> None:
        """Gives the parts to their stretches, each speaker under the number it had."""
        own: list[list[Speech]] = [[] for _ in together]
        for part in parts:
            index, (start, end) = _own((part.start, part.end), places)
            own[index].append(Speech(start, end, part.speaker))
        shared: dict[tuple[int, int], int] = {}
        for item, found in zip(together[:-1], own[:-1], strict=True):
            for before in item.parts:
                for after in found:
                    both = min(before.end, after.end) - max(before.start, after.start)
                    if both > 0:
                        pair = after.speaker, before.speaker
                        shared[pair] = shared.get(pair, 0) + both
        numbers: dict[int, int] = {}
        for now, earlier in sorted(shared, key=lambda pair: -shared[pair]):
            if now not in numbers and earlier not in numbers.values():
                numbers[now] = earlier
        for part in parts:
            if part.speaker not in numbers:
                taken = set(numbers.values())
                free = [
                    number
                    for number in range(self._asked or len(taken) + self._count + 1)
                    if number not in taken and (number >= self._count or not shared)
                ]
                numbers[part.speaker] = free[0] if free else _least(taken)
        for item, found in zip(together, own, strict=True):
            item.parts = [Speech(part.start, part.end, numbers[part.speaker]) for part in found]


def _own(window: tuple[int, int], places: Sequence[int]) -> tuple[int, tuple[int, int]]:
    """The stretch in which a window lies, and its bounds there."""
    index = int(np.searchsorted(places, window[0], side="right")) - 1
    return index, (window[0] - places[index], window[1] - places[index])


def _vector(talk: Talk, bounds: tuple[int, int]) -> Matrix:
    """The vector of a window; rounding may have moved it by a sample."""
    if bounds in talk.vectors:
        return talk.vectors[bounds]
    near = min(talk.vectors, key=lambda own: abs(own[0] - bounds[0]) + abs(own[1] - bounds[1]))
    return talk.vectors[near]


def _least(taken: set[int]) -> int:
    return next(number for number in range(len(taken) + 1) if number not in taken)


__all__ = ["LiveSpeakers", "Talk"]
