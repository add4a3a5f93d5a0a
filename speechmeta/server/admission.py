"""Who gets a place in the queue, and when those are to come again who got none.

A request for which there is no place gets an appointment: `Retry-After` says when, at the pace at
which places become free, its turn is likely to be, and then a place is kept for it for a moment.
So those who wait as they were told do not lose to those who come just then.

Among several clients, whoever has fewer calls goes first (max-min fairness): each is given its
first place before any other gets a second. So one that floods the queue is in its own way only.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from speechmeta.server.problems import Busy

KEPT_SECONDS = 5.0
"""For so long a place is kept for a request that may come, or whose recording is being sent."""
MOST_SECONDS = 60
"""Longest `Retry-After`: OpenAI's clients heed none that is longer."""
MOST_APPOINTMENTS = 256
"""Of one client; beyond these it is only told when to come again."""
FIRST_PACE = 1.0
"""Seconds in which a place becomes free, before any call has ended."""
_MEASURED = 32


@dataclass(eq=False)
class Visit:
    """A request from its headers on, or one that was told to come again.

    Attributes:
        number: of all requests in the order in which they first came.
        due, until: between these a place is kept for it.
        away: it was told to come again.
        inside: it has its place.
    """

    client: str
    number: int
    due: float
    until: float
    away: bool = False
    inside: bool = False


class Admission:
    """The places of a server; for the thread of its event loop alone.

    Args:
        places: how many calls may be worked on or wait.
        clock: seconds.
    """

    def __init__(self, places: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._places = places
        self._clock = clock
        self._inside: Counter[str] = Counter()
        self._expected: list[Visit] = []
        self._numbers = itertools.count()
        self._spans: deque[float] = deque(maxlen=_MEASURED)
        self._since = 0.0

    @property
    def taken(self) -> int:
        """Calls that are worked on or wait."""
        return self._inside.total()

    @contextmanager
    def visit(self, client: str) -> Iterator[Visit]:
        """A request, before its recording is read; whatever it holds is given back at the end.

        Args:
            client: who asks; see `clients.client_of`.

        Raises:
            Busy: there is no place for it.
        """
        now = self._now()
        told = [item for item in self._expected if item.away and item.client == client]
        due = [item for item in told if item.due <= now]
        back = max(due, key=lambda item: item.due, default=None)
        if back is not None:
            self._expected.remove(back)
        number = next(self._numbers) if back is None else back.number
        visit = Visit(client, number, now, now + KEPT_SECONDS)
        if not self._may(visit, now):
            self._refuse(visit, now)
        self._expect(visit)
        try:
            yield visit
        finally:
            self._end(visit)

    def enter(self, visit: Visit) -> None:
        """Takes the place, when the recording is there.

        One that took long to send, so that others have the place, is taken on beyond them: who is
        refused then would take as long again, and as likely lose.

        Raises:
            Busy: there are twice as many as there are places.
        """
        now = self._now()
        if self.taken >= 2 * self._places:
            self._refuse(visit, now)
        self._end(visit)
        if not self.taken:
            self._since = now
        visit.inside = True
        self._inside[visit.client] += 1

    def _now(self) -> float:
        now = self._clock()
        self._expected = [item for item in self._expected if item.until > now]
        return now

    def _expect(self, visit: Visit) -> None:
        """Keeps the list in the order of numbers, which is that in which places are given."""
        self._expected.append(visit)
        self._expected.sort(key=lambda item: item.number)

    def _end(self, visit: Visit) -> None:
        if visit in self._expected:
            self._expected.remove(visit)
        if visit.inside:
            visit.inside = False
            now = self._clock()
            self._spans.append(now - self._since)
            self._since = now
            self._inside[visit.client] -= 1
            # Not to remember everybody who ever came.
            self._inside += Counter()

    def _may(self, visit: Visit, now: float) -> bool:
        """Whether there is a place beyond those that are kept for others."""
        # While there is enough to do, nobody overtakes those who are told to come later. Else
        # places are kept for those alone who may come now, so that the processor is not idle.
        soon = math.inf if 2 * self.taken > self._places else now + self._pace()
        others = [item for item in self._expected if item.due <= soon]
        return self._places - self.taken > self._before(visit, others)

    def _before(self, visit: Visit, others: list[Visit]) -> int:
        """How many of the others get a place first."""
        calls = self._inside.copy()
        turns = []
        own = (0, 0)
        for item in sorted({*others, visit}, key=lambda item: item.number):
            turn = (calls[item.client], item.number)
            calls[item.client] += 1
            turns.append(turn)
            if item is visit:
                own = turn
        return sum(turn < own for turn in turns)

    def _refuse(self, visit: Visit, now: float) -> NoReturn:
        free = self._places - self.taken
        places = max(1, self._before(visit, self._expected) + 1 - free)
        seconds = max(1, min(MOST_SECONDS, math.ceil(self._pace() * places)))
        due = now + seconds
        own = sum(item.client == visit.client for item in self._expected)
        if own < MOST_APPOINTMENTS:
            self._expect(Visit(visit.client, visit.number, due, due + KEPT_SECONDS, away=True))
        raise Busy(seconds)

    def _pace(self) -> float:
        """Seconds in which a place becomes free."""
        return sum(self._spans) / len(self._spans) if self._spans else FIRST_PACE


__all__ = ["Admission", "Visit"]
