"""The states of an automaton inside a transcript, as tables over the vocabulary."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Self

import numpy as np

from speechmeta.decoding.automaton import Automaton, distances
from speechmeta.decoding.vocabulary import TokenTable
from speechmeta.errors import ModelError

CLOSED = -1
"""The state after a token that closed the transcript."""

BUDGET_LEVELS = 5
"""A character has at most four bytes: with this many tokens left all may be begun."""


class TranscriptStates:
    """What may be written in a transcript, state by state; the first state is its start.

    Args:
        moves: by state, the state after each allowed token; `CLOSED` where it closes.
        closable: the states in which the transcript may be closed.
        table: the tokenizer's bytes.
        closing: the text that closes a transcript; empty where an end token does.
        size: of the vocabulary.

    Attributes:
        moves: without those that lead where the transcript cannot be closed.
        distance: by state, how many tokens it takes until the transcript may be closed.
        masks: bool (states, BUDGET_LEVELS, vocabulary): what may follow in a state when so
            many tokens (level + 1, the last one: or more) are left, the closing not counted.

    Raises:
        ModelError: the vocabulary cannot close a transcript.
    """

    def __init__(
        self,
        moves: Sequence[Mapping[int, int]],
        closable: Collection[int],
        table: TokenTable,
        closing: bytes,
        size: int,
    ) -> None:
        following = {state: set(own.values()) - {CLOSED} for state, own in enumerate(moves)}
        found = distances(following, closable)
        if 0 not in found:
            raise ModelError(
                "the tokenizer's vocabulary cannot close a transcript",
                "it needs an entry for the quotation mark",
            )
        self.start = 0
        self.distance = [found.get(state) for state in range(len(moves))]
        # States out of which no entry of the vocabulary leads (part of a character) are left out.
        self.moves: list[dict[int, int]] = [
            {
                token: target
                for token, target in own.items()
                if target == CLOSED or self.distance[target] is not None
            }
            for own in moves
        ]
        self.masks = np.zeros((len(moves), BUDGET_LEVELS, size), dtype=bool)
        for number, own in enumerate(self.moves):
            tokens = np.fromiter(own, dtype=np.int64, count=len(own))
            # One token is this one; a character that it begins has to end in the others.
            needs = np.array([0 if t == CLOSED else self.distance[t] or 0 for t in own.values()])
            for level in range(BUDGET_LEVELS):
                self.masks[number, level, tokens[needs <= level]] = True
        self._table = table
        self._closing = closing

    @classmethod
    def within(cls, automaton: Automaton, state: int, table: TokenTable, closing: bytes) -> Self:
        """The states from one on, up to a text that closes the transcript.

        Args:
            automaton: of the whole answer.
            state: where the transcript begins.
            table: the tokenizer's bytes.
            closing: the fixed text after the transcript; its first byte is in no transcript.
        """
        first_closing = table.encode(closing.decode())[0]
        quote = closing[:1]
        names, queue = {state: 0}, [state]
        moves: list[dict[int, int]] = []
        for current in queue:
            own: dict[int, int] = {}
            for token, target in automaton.transitions.get(current, {}).items():
                piece = table.bytes[token] or b""
                place = piece.find(quote)
                if place >= 0:
                    # A token that reaches into the next value would choose it unscored.
                    if len(piece) - place <= len(closing):
                        own[token] = CLOSED
                    continue
                if target not in names:
                    names[target] = len(names)
                    queue.append(target)
                own[token] = names[target]
            moves.append(own)
        closable = [
            names[state] for state in queue if first_closing in automaton.transitions.get(state, {})
        ]
        return cls(moves, closable, table, closing, len(table.bytes))

    @classmethod
    def text(
        cls,
        automaton: Automaton,
        table: TokenTable,
        end: int,
        never: Collection[int] = (),
        not_first: Collection[int] = (),
    ) -> Self:
        """The states of a text that an end token closes.

        Args:
            automaton: of the text.
            table: the tokenizer's bytes.
            end: the end token.
            never: tokens that are left out everywhere ...
            not_first: ... and at the start.
        """
        names, queue = {automaton.initial: 1}, [automaton.initial]
        moves: list[dict[int, int]] = [{}]
        dropped = frozenset(never)
        for current in queue:
            own: dict[int, int] = {}
            for token, target in automaton.transitions.get(current, {}).items():
                if target not in names:
                    names[target] = len(names) + 1
                    queue.append(target)
                if token not in dropped:
                    own[token] = names[target]
            if current in automaton.finals:
                own[end] = CLOSED
            moves.append(own)
        # The start is a state of its own, since less may follow there.
        left_out = frozenset(not_first)
        moves[0] = {token: target for token, target in moves[1].items() if token not in left_out}
        closable = [names[state] for state in queue if state in automaton.finals]
        # The empty text may be written: where its end token may not be, the budget never asks.
        closable.append(0)
        return cls(moves, closable, table, b"", max(end + 1, len(table.bytes)))

    def piece(self, token: int) -> bytes:
        """The text that a token adds; an end token adds none."""
        return (self._table.bytes[token] or b"") if token < len(self._table.bytes) else b""

    def level(self, tokens_left: int) -> int:
        """The row of `masks` for this many tokens left (at least one)."""
        return min(tokens_left, BUDGET_LEVELS) - 1

    def walk(self, piece: bytes) -> int | None:
        """The state after some bytes at the start of the transcript; None if not allowed."""
        quote = piece.find(self._closing[:1])
        body, closing = (piece, b"") if quote < 0 else (piece[:quote], piece[quote:])
        state = self.start
        try:
            tokens = self._table.encode(body.decode())
        except UnicodeDecodeError:
            return None
        for token in tokens:
            if token not in self.moves[state]:
                return None
            state = self.moves[state][token]
        if closing:
            fits = self._closing.startswith(closing) and self.distance[state] == 0
            return CLOSED if fits else None
        return state

    def closing_bytes(self, piece: bytes) -> int:
        """How many bytes from the closing quote on a closing token's text has."""
        return len(piece) - piece.index(self._closing[:1]) if self._closing else 0
