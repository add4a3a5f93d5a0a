"""What language models add to the prefixes of a CTC search (shallow fusion)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from speechmeta.decoding.ngram import NgramModel
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.words import UNKNOWN, WordModel


class Heard(NamedTuple):
    """A prefix as the language models see it.

    Attributes:
        score: all that they have added so far.
        context: the tokens that the n-gram looks at.
        history: ids of the words before the one that is being written.
        word: that word, as far as it is written.
        spelled: log probability of its tokens under the n-gram.
    """

    score: float = 0.0
    context: tuple[int, ...] = ()
    history: tuple[int, ...] = ()
    word: bytes = b""
    spelled: float = 0.0


class Fusion:
    """Adds up, token by token, what is known of spelling and of words.

    Args:
        token_bonus: added for each token, against the models' love of short sentences.
        ngram, ngram_weight: over tokens, and the weight of its log probability.
        words, word_weight: over words. When a word is finished, what this model says of it takes
            the place of what the n-gram said of its tokens, which was a preview. A word that it
            does not know is as probable as the unknown word, times its spelling.
        pieces: the bytes of every token; a word begins with a space.
    """

    def __init__(
        self,
        token_bonus: float = 0.0,
        ngram: NgramModel | None = None,
        ngram_weight: float = 0.0,
        words: WordModel | None = None,
        word_weight: float = 0.0,
        pieces: Sequence[bytes | None] = (),
    ) -> None:
        self.token_bonus = token_bonus
        self.ngram, self.ngram_weight = ngram if ngram_weight or word_weight else None, ngram_weight
        self.words, self.word_weight = words if word_weight else None, word_weight
        self.pieces = pieces

    @classmethod
    def of(cls, model: Any, options: DecodeOptions, pieces: Sequence[bytes | None]) -> Fusion:
        """What a loaded checkpoint's language models add under the options."""
        return cls(
            options.ctc_token_bonus,
            getattr(model, "ngram", None),
            options.ngram_weight,
            getattr(model, "words", None),
            options.word_weight,
            pieces,
        )

    def extend(self, prefix: Heard, token: int) -> Heard:
        """The prefix with one more token."""
        said, context = 0.0, prefix.context
        if self.ngram is not None:
            said = float(self.ngram.log_probs(context)[token])
            context = (*context, token)[1 - self.ngram.order :]
        score = prefix.score + self.ngram_weight * said + self.token_bonus
        if self.words is None:
            return Heard(score, context)
        piece = self.pieces[token] or b""
        if not piece.startswith(b" "):
            return Heard(score, context, prefix.history, prefix.word + piece, prefix.spelled + said)
        judged, history = self._judge(prefix, self.words)
        return Heard(score + judged, context, history, piece[1:], said)

    def finish(self, prefix: Heard) -> float:
        """The score of a prefix after which nothing comes."""
        score = prefix.score
        if self.ngram is not None:
            end = self.ngram.log_probs(prefix.context)[self.ngram.boundary]
            score += self.ngram_weight * float(end)
        if self.words is not None:
            judged, history = self._judge(prefix, self.words)
            end = self.words.log_prob(history, self.words.ngram.boundary)
            score += judged + self.word_weight * end
        return score

    def _judge(self, prefix: Heard, words: WordModel) -> tuple[float, tuple[int, ...]]:
        if not prefix.word:
            return 0.0, prefix.history
        word = words.id_of(prefix.word.decode(errors="replace"))
        said = words.log_prob(prefix.history, word)
        if word == UNKNOWN:
            said += prefix.spelled
        history = (*prefix.history, word)[1 - words.ngram.order :]
        return self.word_weight * said - self.ngram_weight * prefix.spelled, history
