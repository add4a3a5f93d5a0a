"""The states of a grammar's index inside the transcript, as tables over the vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from outlines_core import Index

from speechmeta.errors import ModelError

if TYPE_CHECKING:
    from speechmeta.decoding.grammar import Grammar

CLOSED = -1
"""The state after a token that closed the transcript."""

BUDGET_LEVELS = 5
"""A character has at most four bytes: with this many tokens left all may be begun."""


class TranscriptStates:
    """The grammar inside the transcript, as tables.

    Attributes:
        start: the state where the transcript begins.
        moves: by state, the state after each allowed token; `CLOSED` where it closes.
        distance: by state, how many tokens it takes until the transcript may be closed.
        masks: bool (states, BUDGET_LEVELS, vocabulary): what may follow in a state when so
            many tokens (level + 1, the last one: or more) are left, the closing not counted.
    """

    def __init__(self, grammar: Grammar) -> None:
        index, table = grammar.index, grammar.table
        after = grammar.after_transcript
        quote = after[:1]
        state = index.get_initial_state()
        for token in _written_prefix(grammar):
            state = _next(index, state, token)
        transitions = index.get_transitions()
        first_closing = table.encode(after.decode())[0]

        names: dict[int, int] = {state: 0}
        moves: list[dict[int, int]] = []
        queue = [state]
        closable: list[bool] = []
        while queue:
            current = queue.pop(0)
            own: dict[int, int] = {}
            out = transitions.get(current, {})
            for token, target in out.items():
                piece = table.bytes[token] if token < len(table.bytes) else None
                if not piece:
                    continue
                place = piece.find(quote)
                if place >= 0:
                    # A token that reaches into the next value would choose it unscored.
                    if len(piece) - place <= len(after):
                        own[token] = CLOSED
                    continue
                if target not in names:
                    names[target] = len(names)
                    queue.append(target)
                own[token] = names[target]
            moves.append(own)
            closable.append(first_closing in out)
        self.start = 0
        self.distance = _distances(moves, closable)
        # States out of which no entry of the vocabulary leads (part of a character) are left out.
        self.moves: list[dict[int, int]] = [
            {
                token: target
                for token, target in own.items()
                if target == CLOSED or self.distance[target] is not None
            }
            for own in moves
        ]
        if self.distance[0] is None:
            raise ModelError(
                "the tokenizer's vocabulary cannot close a transcript",
                "it needs an entry for the quotation mark",
            )
        self.masks = np.zeros((len(moves), BUDGET_LEVELS, len(table.bytes)), dtype=bool)
        for number, own in enumerate(self.moves):
            for token, target in own.items():
                need = 0 if target == CLOSED else self.distance[target] or 0
                # One token is this one; a character that it begins has to end in the others.
                self.masks[number, need:, token] = True
        self._table = table
        self._after = after

    def level(self, tokens_left: int) -> int:
        """The row of `masks` for so many tokens left (at least one)."""
        return min(tokens_left, BUDGET_LEVELS) - 1

    def walk(self, piece: bytes) -> int | None:
        """The state after some bytes at the start of the transcript; None if not allowed."""
        quote = piece.find(self._after[:1])
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
            fits = self._after.startswith(closing) and self.distance[state] == 0
            return CLOSED if fits else None
        return state

    def closing_bytes(self, piece: bytes) -> int:
        """How many bytes from the closing quote on a closing token's text has."""
        return len(piece) - piece.index(self._after[:1])


def _written_prefix(grammar: Grammar) -> list[int]:
    """Canonical tokens of some answer up to its transcript."""
    text = ""
    for index in range(grammar.transcript_index):
        forms = [
            form
            for label, form in grammar.written(grammar.fields[index])
            if not grammar.ends_record(grammar.fields[index], label)
        ]
        text += grammar.before(index) + forms[0]
    return grammar.table.encode_start(text + grammar.before(grammar.transcript_index))


def _next(index: Index, state: int, token: int) -> int:
    following = index.get_next_state(state, token)
    if following is None:
        raise ModelError("the grammar does not accept its own text", "the layout is inconsistent")
    return int(following)


def _distances(moves: list[dict[int, int]], closable: list[bool]) -> list[int | None]:
    distance: list[int | None] = [0 if free else None for free in closable]
    targets = [set(own.values()) - {CLOSED} for own in moves]
    changed = True
    while changed:
        changed = False
        for state, reached in enumerate(targets):
            known = [distance[target] for target in reached]
            steps = [value + 1 for value in known if value is not None]
            best = distance[state]
            if steps and (best is None or min(steps) < best):
                distance[state] = min(steps)
                changed = True
    return distance
