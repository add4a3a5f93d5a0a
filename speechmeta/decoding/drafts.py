"""Drafts: words that a clip is likely to hold, since most of it was decoded before.

A pass over a few tokens costs hardly more than one over a single token. So a draft is fed as if it
had been written, and what the decoder would have written itself is read off after each of its
tokens: as far as both are the same, they are the transcript (speculative decoding, Leviathan et
al. 2023, with the model's own earlier words in place of a smaller model's).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from speechmeta.decoding.beams import Line
from speechmeta.decoding.session import Results
from speechmeta.decoding.transcript import TranscriptWriter


@dataclass(frozen=True)
class Draft:
    """Tokens that a transcript may begin with.

    Attributes:
        places: rows of the grammar's masks: for the first token, and after each of them.
    """

    tokens: tuple[int, ...]
    places: tuple[int, ...]

    @classmethod
    def of(cls, writer: TranscriptWriter, tokens: Sequence[int], place: int) -> Draft:
        """As many of some tokens as may be written without ending the transcript.

        Args:
            writer: of the transcript, before its first token.
            place: of the first token.
        """
        trial = writer.fork()
        taken: list[int] = []
        places = [place]
        for token in tokens:
            if not trial.allows(token):
                break
            trial.push(token)
            if trial.done:
                break
            taken.append(token)
            places.append(trial.place_index)
        return cls(tuple(taken), tuple(places))

    def check(self, line: Line, results: Results) -> int:
        """Writes what the decoder writes itself of the draft; returns how many tokens that is.

        Args:
            line: before its first token.
            results: the best token before the first and after each token of the draft.
        """
        count = 0
        while count < len(self.tokens) and results.best[count] == self.tokens[count]:
            line.push(results.best[count], results.log_probs[count])
            count += 1
        return count


__all__ = ["Draft"]
