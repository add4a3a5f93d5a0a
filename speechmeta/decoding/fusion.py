"""What language models add to the prefixes of a CTC search (shallow fusion)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechmeta.decoding.ngram import NgramModel
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.words import UNKNOWN, WordModel


class Heard:
    """A prefix as the language models see it.

    Attributes:
        score: all that they have added so far.
        context: the tokens that the n-gram looks at.
        history: ids of the words before the one that is being written.
        word: that word, as far as it is written.
        spelled: log probability of its tokens under the n-gram.
        next_tokens: what the n-gram says of the next token, once somebody has asked.
        next_word: what is added if that word ends here, and the history then, likewise.
    """

    __slots__ = ("context", "history", "next_tokens", "next_word", "score", "spelled", "word")

    def __init__(
        self,
        score: float = 0.0,
        context: tuple[int, ...] = (),
        history: tuple[int, ...] = (),
        word: bytes = b"",
        spelled: float = 0.0,
    ) -> None:
        self.score, self.context, self.history = score, context, history
        self.word, self.spelled = word, spelled
        self.next_tokens: np.ndarray | None = None
        self.next_word: tuple[float, tuple[int, ...]] | None = None


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
        self._begins = [(piece or b"").startswith(b" ") for piece in pieces]

    @classmethod
    def of(cls, model: object, options: DecodeOptions, pieces: Sequence[bytes | None]) -> Fusion:
        """What a loaded checkpoint's language models add under the options."""
        return cls(
            options.ctc_token_bonus,
            getattr(model, "ngram", None),
            options.ngram_weight,
            getattr(model, "words", None),
            options.word_weight,
            pieces,
        )

    def gain(self, prefix: Heard, token: int) -> float:
        """What one more token adds to a prefix's score."""
        added = self.token_bonus
        if self.ngram is not None:
            added += self.ngram_weight * self._said(prefix, token, self.ngram)
        if self.words is not None and self._begins[token]:
            added += self._judge(prefix, self.words)[0]
        return added

    def extend(self, prefix: Heard, token: int, gain: float) -> Heard:
        """The prefix with one more token, and what `gain` says of it."""
        score = prefix.score + gain
        if self.ngram is None:
            return Heard(score)
        said = self._said(prefix, token, self.ngram)
        context = (*prefix.context, token)[1 - self.ngram.order :]
        if self.words is None:
            return Heard(score, context)
        piece = self.pieces[token] or b""
        if self._begins[token]:
            return Heard(score, context, self._judge(prefix, self.words)[1], piece[1:], said)
        return Heard(score, context, prefix.history, prefix.word + piece, prefix.spelled + said)

    def finish(self, prefix: Heard) -> float:
        """The score of a prefix after which nothing comes."""
        score = prefix.score
        if self.ngram is not None:
            score += self.ngram_weight * self._said(prefix, self.ngram.boundary, self.ngram)
        if self.words is not None:
            judged, history = self._judge(prefix, self.words)
            end = self.words.log_prob(history, self.words.ngram.boundary)
            score += judged + self.word_weight * end
        return score

    def _said(self, prefix: Heard, token: int, ngram: NgramModel) -> float:
        if prefix.next_tokens is None:
            prefix.next_tokens = ngram.log_probs(prefix.context)
        result: float = prefix.next_tokens.item(token)
        return result

    def _judge(self, prefix: Heard, words: WordModel) -> tuple[float, tuple[int, ...]]:
        if prefix.next_word is None:
            prefix.next_word = (0.0, prefix.history)
            if prefix.word:
                word = words.id_of(prefix.word.decode(errors="replace"))
                said = words.log_prob(prefix.history, word)
                if word == UNKNOWN:
                    said += prefix.spelled
                judged = self.word_weight * said - self.ngram_weight * prefix.spelled
                prefix.next_word = (judged, (*prefix.history, word)[1 - words.ngram.order :])
        return prefix.next_word
