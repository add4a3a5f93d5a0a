"""Which turns go into a model batch together."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.batch.job import SpilledTurn

SECONDS_PER_ROW = 15.0
"""Batches of long turns have fewer rows: a batch holds at most this times its size."""


class TurnQueue:
    """Turns of many calls that wait for the model.

    A batch is the turn that has waited longest together with those nearest to it in length,
    so that every call gets done and little of a batch is padding.
    """

    def __init__(self) -> None:
        self._by_age: OrderedDict[tuple[int, int], SpilledTurn] = OrderedDict()
        self._by_length: list[tuple[int, int, int]] = []
        self._samples = 0

    def __len__(self) -> int:
        return len(self._by_age)

    @property
    def seconds(self) -> float:
        return self._samples / SAMPLE_RATE

    def add(self, turn: SpilledTurn) -> None:
        self._by_age[turn.call, turn.index] = turn
        insort(self._by_length, (turn.length, turn.call, turn.index))
        self._samples += turn.length

    def take(self, size: int) -> list[SpilledTurn]:
        """Removes and returns the next batch, 1 to `size` turns; empty if none wait."""
        if not self._by_age:
            return []
        oldest = next(iter(self._by_age.values()))
        key = (oldest.length, oldest.call, oldest.index)
        low = high = self._position(key)
        budget = size * SECONDS_PER_ROW * SAMPLE_RATE
        while high - low + 1 < size:
            below = self._by_length[low - 1][0] if low else None
            above = self._by_length[high + 1][0] if high + 1 < len(self._by_length) else None
            if below is None and above is None:
                break
            down = above is None or (
                below is not None and oldest.length - below <= above - oldest.length
            )
            longest = self._by_length[high if down else high + 1][0]
            if longest * (high - low + 2) > budget:
                break
            if down:
                low -= 1
            else:
                high += 1
        taken = self._by_length[low : high + 1]
        del self._by_length[low : high + 1]
        batch = [self._by_age.pop((call, index)) for _, call, index in taken]
        self._samples -= sum(turn.length for turn in batch)
        return batch

    def _position(self, key: tuple[int, int, int]) -> int:
        return bisect_left(self._by_length, key)
