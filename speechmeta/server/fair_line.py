"""A line in which clients take turns, so that one with many calls does not hold up the others."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairLine(Generic[Item]):
    """Things that wait: those of one client in their order, clients in turn (round robin)."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def __iter__(self) -> Iterator[Item]:
        for line in self._clients.values():
            yield from line

    def add(self, client: str, item: Item) -> None:
        self._clients.setdefault(client, deque()).append(item)

    def take(self, may: Callable[[str], bool]) -> Item | None:
        """Removes and returns the next of a client that may; None where there is none."""
        client = next(filter(may, self._clients), None)
        if client is None:
            return None
        line = self._clients[client]
        item = line.popleft()
        if line:
            self._clients.move_to_end(client)
        else:
            del self._clients[client]
        return item

    def remove(self, client: str, item: Item) -> None:
        """Takes something out, if it is there."""
        line = self._clients.get(client, deque())
        if item in line:
            line.remove(item)
            if not line:
                del self._clients[client]


__all__ = ["FairLine"]
