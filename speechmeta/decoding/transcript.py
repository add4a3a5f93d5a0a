"""One transcript while it is written: its state in the grammar, its budget, its loops."""

from __future__ import annotations

from copy import copy
from typing import Self

from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import LOOP, TRUNCATED
from speechmeta.decoding.states import BUDGET_LEVELS, CLOSED, TranscriptStates
from speechmeta.errors import DecodingError


class TranscriptWriter:
    """Takes a transcript's tokens one by one and says when it is over.

    Args:
        states: what may be written.
        options: budget and loop parameters.
        budget: most tokens, the closing not counted.

    Attributes:
        tokens: what was taken, the closing token with it.
        kept: how many of them stay; fewer than all where a loop was cut.
        done: whether the transcript is over.
        consumed: bytes of the fixed text after the transcript that are written already.
        flags: what happened to it.
    """

    def __init__(self, states: TranscriptStates, options: DecodeOptions, budget: int) -> None:
        self._states = states
        self._options = options
        self._budget = budget
        self._state = self._states.start
        self._history = [self._state]
        self._pieces: list[bytes] = []
        # By period, for how many tokens in a row a token equals the one a period before.
        self._runs = [0] * (options.loop_max_period + 1)
        self.tokens: list[int] = []
        self.kept = 0
        self.done = False
        self.consumed = 0
        self.flags: tuple[str, ...] = ()

    def fork(self) -> Self:
        """A copy that goes on by itself."""
        other = copy(self)
        other._history, other._pieces = list(self._history), list(self._pieces)
        other._runs, other.tokens = list(self._runs), list(self.tokens)
        return other

    @property
    def place(self) -> tuple[int, int]:
        """The row of the grammar's masks that holds for the next token: (state, level)."""
        return self._state, self._states.level(self._budget - len(self.tokens))

    @property
    def place_index(self) -> int:
        """`place` as one number: the row of the masks flattened over states and levels."""
        state, level = self.place
        return state * BUDGET_LEVELS + level

    def heal(self, token: int, fixed: bytes, state: int) -> None:
        """Takes a first token that also covers `fixed`, the text before the transcript."""
        piece = self._states.piece(token)[len(fixed) :]
        self._take(token, piece, state)

    def allows(self, token: int) -> bool:
        """Whether it may be the next token."""
        state, level = self.place
        return bool(self._states.masks[state, level, token])

    def push(self, token: int) -> int:
        """Takes the next token, and returns it.

        Raises:
            DecodingError: the grammar does not allow it.
        """
        if token not in self._states.moves[self._state]:
            raise DecodingError(
                f"token {token} is not allowed in the transcript",
                "the model's numbers may not be finite in this dtype; try float32",
            )
        self._take(token, self._states.piece(token), self._states.moves[self._state][token])
        return token

    def _take(self, token: int, piece: bytes, state: int) -> None:
        self.tokens.append(token)
        self.kept = len(self.tokens)
        if state == CLOSED:
            self.consumed = self._states.closing_bytes(piece)
            self._pieces.append(piece[: len(piece) - self.consumed])
            self.done = True
            return
        self._pieces.append(piece)
        self._history.append(state)
        self._state = state
        period = self._loop()
        if period:
            self._cut(period)
            self.done, self.flags = True, (LOOP,)
        elif len(self.tokens) >= self._budget:
            self.done, self.flags = True, (TRUNCATED,)

    def _loop(self) -> int:
        """The period of a repetition that the transcript ends in, or 0."""
        options = self._options
        last = len(self.tokens) - 1
        for period in range(1, min(options.loop_max_period, last) + 1):
            if self.tokens[last] != self.tokens[last - period]:
                self._runs[period] = 0
                continue
            self._runs[period] += 1
            repeated = self._runs[period] + period
            if repeated >= max(options.loop_repeats * period, options.loop_min_tokens):
                return period
        return 0

    def _cut(self, period: int) -> None:
        """Keeps one occurrence of the repetition, up to the end of a character."""
        kept = len(self.tokens) - self._runs[period]
        while self._states.distance[self._history[kept]] != 0:
            kept += 1
        self.kept = kept

    @property
    def written(self) -> bytes:
        """The bytes between the quotes, as they were written."""
        return b"".join(self._pieces[: self.kept])
