"""How transcripts are searched for, token by token: greedily, or along several beams.

All rows of a batch advance in one pass a token, each at its own place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from speechmeta.decoding.decoders import DecoderCache
from speechmeta.decoding.record import LOOP
from speechmeta.decoding.session import Plan, Results, Row, Session
from speechmeta.decoding.transcript import TranscriptWriter
from speechmeta.errors import DecodingError, SpeechMetaError

C = TypeVar("C", bound=DecoderCache)
Begun = Mapping[int, tuple["Line", Results]]
"""By number of the clip, its line before the first token and what its prompt's pass gave."""


@dataclass
class Line:
    """A transcript that is being written: its row in the batch, its text, its tokens' scores."""

    row: Row
    writer: TranscriptWriter
    log_probs: list[float] = field(default_factory=list)

    def push(self, token: int, log_prob: float) -> None:
        """Takes a token.

        Raises:
            DecodingError: the grammar does not allow it.
        """
        self.writer.push(token)
        self.log_probs.append(log_prob)

    def fork(self) -> Line:
        """A copy that goes on by itself."""
        return Line(self.row, self.writer.fork(), list(self.log_probs))

    @property
    def plan(self) -> Plan:
        """Feeds the last token and asks for the next one."""
        return Plan([self.writer.tokens[-1]], after_chain=True, place=self.writer.place_index)

    @property
    def score(self) -> float:
        """The log probability of what is written."""
        return sum(self.log_probs)

    @property
    def rank(self) -> tuple[bool, float]:
        """What makes one finished line better than another: no loop, then sureness per token."""
        return LOOP not in self.writer.flags, self.score / len(self.log_probs)


def greedy(session: Session[C], begun: Begun, beams: int = 1) -> dict[int, Line | SpeechMetaError]:
    """The best allowed token at each step.

    Args:
        session: after the pass of the prompts.
        begun: the clips to write; the others leave the batch.
        beams: 1.
    """
    ended: dict[int, Line | SpeechMetaError] = {}
    now = {number: line for number, (line, _) in begun.items()}
    results = [first for _, first in begun.values()]
    while now:
        for (number, line), result in zip(list(now.items()), results, strict=True):
            try:
                line.push(result.best[0], result.log_probs[0])
            except SpeechMetaError as error:
                ended[number] = error
                del now[number]
                continue
            if line.writer.done:
                ended[number] = now.pop(number)
        session.leave([line.row for line in now.values()])
        if now:
            results = session.run([(line.row, line.plan) for line in now.values()])
    return ended


def beam_search(session: Session[C], begun: Begun, beams: int) -> dict[int, Line | SpeechMetaError]:
    """The transcript with the best mean log probability among those that beams find.

    A clip's beams are rows of the batch. It is over when as many transcripts have ended as there
    are beams and none that goes on is better than the worst of them, as in transformers'
    `generate` with `early_stopping=False` and a length penalty of 1.

    Args:
        session: after the pass of the prompts, which asked for twice as many tokens as beams.
        begun: the clips to write; the others leave the batch.
        beams: how many lines of a clip are followed.
    """
    ended: dict[int, list[Line]] = {number: [] for number in begun}
    now = {number: [(line, first)] for number, (line, first) in begun.items()}
    while now:
        lines: list[tuple[int, Line]] = []
        for number, live in now.items():
            lines += [(number, line) for line in _grow(live, ended[number], beams)]
        now = {}
        if not lines:
            break
        rows = session.take([line.row for _, line in lines])
        for (_, line), row in zip(lines, rows, strict=True):
            line.row = row
        results = session.run([(line.row, line.plan) for _, line in lines], 2 * beams)
        for (number, line), result in zip(lines, results, strict=True):
            now.setdefault(number, []).append((line, result))
    return {
        number: max(found, key=lambda line: line.rank)
        if found
        else DecodingError("the model's numbers are not finite", "decode in float32 or bfloat16")
        for number, found in ended.items()
    }


def _grow(live: list[tuple[Line, Results]], ended: list[Line], beams: int) -> list[Line]:
    """The best lines one token longer; those that are over go to `ended`."""
    ways = sorted(
        (
            (line.score + log_prob, number, token, log_prob)
            for number, (line, result) in enumerate(live)
            for token, log_prob in zip(result.best, result.log_probs, strict=True)
            if token >= 0
        ),
        reverse=True,
    )
    going: list[Line] = []
    for place, (_, number, token, log_prob) in enumerate(ways):
        if len(going) == beams:
            break
        line = live[number][0].fork()
        line.push(token, log_prob)
        if not line.writer.done:
            going.append(line)
        elif place < beams:
            ended.append(line)
    if len(ended) >= beams and going:
        worst = sorted((line.rank for line in ended), reverse=True)[beams - 1]
        if worst >= max(line.rank for line in going):
            return []
    return going


__all__ = ["Begun", "Line", "beam_search", "greedy"]
