"""The live calls of one server: how many there may be, what they share, and how all of them end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from speechmeta.server.metrics import Metrics
from speechmeta.server.problems import Refused, Stopped

if TYPE_CHECKING:
    from speechmeta.diarization.embeddings import Embedder

WATCHED_MESSAGES = 1000
"""Messages that wait for somebody who watches a call; who is behind by more is left behind."""

MOST_KNOCKING = 64
"""Connections whose key is still to come."""

_AGAIN_SECONDS = 30


@dataclass(eq=False)
class Place:
    """One live call among the others.

    Attributes:
        owner: of its key. names: under which it may be watched.
        watchers: their messages; None for the end.
        leaving: set when the server wants it to end.
    """

    owner: str = ""
    names: tuple[str, ...] = ()
    watchers: set[asyncio.Queue[str | None]] = field(default_factory=set)
    leaving: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, message: str) -> None:
        """Hands a message to all who watch."""
        for watcher in list(self.watchers):
            try:
                watcher.put_nowait(message)
            except asyncio.QueueFull:
                self._leave_behind(watcher)

    def over(self) -> None:
        """Tells all who watch that nothing follows."""
        for watcher in list(self.watchers):
            self._leave_behind(watcher)

    def _leave_behind(self, watcher: asyncio.Queue[str | None]) -> None:
        self.watchers.discard(watcher)
        if watcher.full():
            watcher.get_nowait()
        watcher.put_nowait(None)


class Hall:
    """All live calls.

    Args:
        most: at a time. share: of one key.
    """

    def __init__(self, most: int, share: int, metrics: Metrics) -> None:
        self._most, self._share, self._metrics = most, share, metrics
        self._places: set[Place] = set()
        self._ending = False
        self._knocking = 0
        self._embedders: dict[str | None, Embedder] = {}
        self.thread = ThreadPoolExecutor(1, "speechmeta-live", initializer=_one_thread)
        """For the numeric work of all calls: one thread, so that the model keeps the others."""

    def refuse_if_full(self) -> None:
        """Before a connection is accepted.

        Raises:
            Refused: there is no room, or the server is being stopped.
        """
        if self._ending:
            raise Stopped
        if len(self._places) >= self._most:
            raise _full(f"the server has {self._most} live calls, which is all that it takes on")

    @contextmanager
    def place(self, owner: str) -> Iterator[Place]:
        """A place for a call while the block lasts.

        Raises:
            Refused: see `refuse_if_full`; or this owner has its share.
        """
        self.refuse_if_full()
        if sum(place.owner == owner for place in self._places) >= self._share:
            raise _full(f"this key has {self._share} live calls; others have keys too")
        found = Place(owner)
        self._places.add(found)
        self._metrics.live(1)
        try:
            yield found
        finally:
            self._places.discard(found)
            self._metrics.live(-1)
            found.over()

    @contextmanager
    def knock(self) -> Iterator[None]:
        """While a key is awaited, which takes no place from calls that have one.

        Raises:
            Refused: too many do, or there is no place either.
        """
        self.refuse_if_full()
        if self._knocking >= MOST_KNOCKING:
            raise Refused(429, "too many connections have not begun", "try again", _AGAIN_SECONDS)
        self._knocking += 1
        try:
            yield
        finally:
            self._knocking -= 1

    def find(self, name: str, owner: str) -> Place:
        """A call of this owner by one of its names.

        Raises:
            Refused: there is none.
        """
        for place in self._places:
            if name in place.names and place.owner == owner:
                return place
        raise Refused(404, "there is no such live call", "it may have ended, or not yet begun")

    def embedder(self, name: str | None, make: Callable[[], Embedder]) -> Callable[[], Embedder]:
        """What tells voices apart, loaded once for all calls; called in their thread."""

        def made() -> Embedder:
            if name not in self._embedders:
                self._embedders[name] = make()
            return self._embedders[name]

        return made

    async def end_all(self, seconds: float) -> None:
        """Asks all calls to end with their reports, and waits for it so long at most."""
        self._ending = True
        for place in self._places:
            place.leaving.set()
        waited = 0.0
        while self._places and waited < seconds:
            await asyncio.sleep(0.05)
            waited += 0.05

    def close(self) -> None:
        """Ends the calls' thread."""
        self.thread.shutdown(cancel_futures=True)


def _full(message: str) -> Refused:
    return Refused(429, message, f"try again in {_AGAIN_SECONDS} s", _AGAIN_SECONDS)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


__all__ = ["Hall", "Place"]
