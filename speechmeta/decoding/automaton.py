"""A regular expression over a tokenizer's vocabulary, as all constrained decoding reads it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Self, TypeVar

from outlines_core import Index

from speechmeta.decoding.vocabulary import TokenTable

S = TypeVar("S", bound=Hashable)


class Automaton:
    """What outlines compiles an expression to; holds no state of a request.

    Args:
        index: outlines' own.
        eos: the vocabulary's end token, which may follow a whole text.
    """

    def __init__(self, index: Index, eos: int) -> None:
        self.index = index
        self.eos = eos
        self.initial = int(self.index.get_initial_state())
        self.finals = frozenset(self.index.get_final_states())

    @classmethod
    def compile(cls, regex: str, table: TokenTable) -> Self:
        """The automaton of an expression of ours; those of users are compiled `confined`."""
        return cls(Index(regex, table.outlines_vocabulary), table.eos_token_id)

    @cached_property
    def transitions(self) -> dict[int, dict[int, int]]:
        """For every state the tokens that may follow, and the state after each; no end tokens."""
        return {
            state: {token: target for token, target in edges.items() if token != self.eos}
            for state, edges in self.index.get_transitions().items()
        }

    @cached_property
    def distances(self) -> dict[int, int]:
        """For every state from which the text can be completed, the fewest tokens it takes."""
        following = {state: set(edges.values()) for state, edges in self.transitions.items()}
        return distances(following, self.finals)

    def walk(self, tokens: Iterable[int], state: int | None = None) -> int | None:
        """The state after tokens, from the start or another state; None if not allowed."""
        here: int | None = self.initial if state is None else state
        for token in tokens:
            here = None if here is None else self.transitions.get(here, {}).get(token)
        return here

    def accepts(self, tokens: Sequence[int]) -> bool:
        """Whether a whole text's tokens match the expression."""
        return self.walk(tokens) in self.finals


def distances(following: Mapping[S, Collection[S]], ends: Iterable[S]) -> dict[S, int]:
    """The fewest steps from each node to one of the ends; nodes without a way are left out."""
    before: dict[S, list[S]] = {}
    for node, targets in following.items():
        for target in targets:
            before.setdefault(target, []).append(node)
    reached = dict.fromkeys(ends, 0)
    border = deque(reached)
    while border:
        here = border.popleft()
        for node in before.get(here, ()):
            if node not in reached:
                reached[node] = reached[here] + 1
                border.append(node)
    return reached


__all__ = ["Automaton", "distances"]
