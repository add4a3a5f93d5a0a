"""Which turns go into a model batch together."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Hashable

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.batch.job import SpilledTurn

SECONDS_PER_ROW = 15.0
"""Batches of long turns have fewer rows: a batch holds at most this times its size."""

FAIR_SECONDS_PER_ROW = 5.0
"""The same where somebody waits for the next batch: long turns of one call are not to hold up the
short ones of another for longer than usual turns do. It costs them a few per cent."""


class TurnQueue:
    """Turns of many calls that wait for the model.

    A batch is the turn that has waited longest together with those nearest to it in length,
    so that every call gets done and little of a batch is padding. Only turns of one lane, of
    which the same is asked, go together.

    Args:
        fair: clients, and calls of one client, take turns at being first, so that a short one need
            not wait for a long one, nor a client for another that has many.
    """

    def __init__(self, fair: bool = False) -> None:
        self._fair = fair
        self._row = FAIR_SECONDS_PER_ROW if fair else SECONDS_PER_ROW
        self._calls: dict[int, OrderedDict[int, SpilledTurn]] = {}
        self._order: OrderedDict[str, OrderedDict[int, None]] = OrderedDict()
        self._by_length: dict[Hashable, list[tuple[int, int, int]]] = {}
        self._samples: Counter[str] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def seconds(self, client: str = "") -> float:
        """Of a client's turns."""
        return self._samples[client] / SAMPLE_RATE

    def add(self, turn: SpilledTurn) -> None:
        self._calls.setdefault(turn.call, OrderedDict())[turn.index] = turn
        self._order.setdefault(turn.client, OrderedDict())[turn.call] = None
        insort(self._by_length.setdefault(turn.lane, []), (turn.length, turn.call, turn.index))
        self._samples[turn.client] += turn.length
        self._count += 1

    def take(self, size: int) -> list[SpilledTurn]:
        """Removes and returns the next batch, 1 to `size` turns; empty if none wait."""
        if not self._calls:
            return []
        client, calls = next(iter(self._order.items()))
        first = next(iter(calls))
        oldest = next(iter(self._calls[first].values()))
        if self._fair:
            self._order.move_to_end(client)
            calls.move_to_end(first)
        lane = self._by_length[oldest.lane]
        low = high = bisect_left(lane, (oldest.length, oldest.call, oldest.index))
        budget = size * self._row * SAMPLE_RATE
        while high - low + 1 < size:
            below = lane[low - 1][0] if low else None
            above = lane[high + 1][0] if high + 1 < len(lane) else None
            if below is None and above is None:
                break
            down = above is None or (
                below is not None and oldest.length - below <= above - oldest.length
            )
            longest = lane[high if down else high + 1][0]
            if longest * (high - low + 2) > budget:
                break
            if down:
                low -= 1
            else:
                high += 1
        taken = lane[low : high + 1]
        del lane[low : high + 1]
        if not lane:
            del self._by_length[oldest.lane]
        return [self._removed(call, index) for _, call, index in taken]

    def drop(self, call: int) -> None:
        """Removes all turns of a call."""
        for turn in list(self._calls.get(call, {}).values()):
            lane = self._by_length[turn.lane]
            del lane[bisect_left(lane, (turn.length, turn.call, turn.index))]
            if not lane:
                del self._by_length[turn.lane]
            self._removed(turn.call, turn.index)

    def _removed(self, call: int, index: int) -> SpilledTurn:
        turns = self._calls[call]
        turn = turns.pop(index)
        if not turns:
            del self._calls[call]
            calls = self._order[turn.client]
            del calls[call]
            if not calls:
                del self._order[turn.client]
        self._samples[turn.client] -= turn.length
        if not self._samples[turn.client]:
            del self._samples[turn.client]
        self._count -= 1
        return turn
