"""A word model for the CTC search: which words there are, and which follow which.

Subword tokens reach two words back at most, and put together words that do not exist. When the
search has finished a word, this model judges it after the two before; what it does not know is
spelled by the n-gram of tokens (multi-level language modelling, Hori, Watanabe and Hershey,
arXiv 1708.04469).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from speechmeta.decoding.ngram import NgramModel, load_arrays, save_arrays
from speechmeta.errors import UsageError

WORDS_FILE = "words.safetensors"
BOUNDARY, UNKNOWN = 0, 1
_MOST_WORDS = 65_534
"""What 16 bits number, beside the boundary and the unknown word."""


class WordModel:
    """Probabilities of the next word after two words.

    Attributes:
        words: the known words; the id of the first is 2.
        ngram: over the ids.
    """

    def __init__(self, words: Sequence[str], ngram: NgramModel) -> None:
        self.words, self.ngram = list(words), ngram
        self._ids = {word: place for place, word in enumerate(self.words, UNKNOWN + 1)}

    @classmethod
    def estimate(
        cls,
        sentences: Iterable[tuple[str, int]],
        vocab_size: int = 60_000,
        order: int = 3,
        least: Sequence[int] = (1,),
    ) -> WordModel:
        """Counts words, and n-grams of the commonest.

        Args:
            sentences: words between single spaces, and how many times they count; read twice.
            vocab_size: words that are known at most.
            order, least: as for `NgramModel.estimate`.

        Raises:
            UsageError: more words are to be known than 16 bits can number, or there is no text.
        """
        if not 1 <= vocab_size <= _MOST_WORDS:
            raise UsageError(f"{vocab_size} words to know", f"choose 1 to {_MOST_WORDS}")
        sentences = list(sentences)
        often: Counter[str] = Counter()
        for text, times in sentences:
            for word in text.split():
                often[word] += times
        words = [word for word, _ in often.most_common(vocab_size)]
        ids = {word: place for place, word in enumerate(words, UNKNOWN + 1)}

        def numbered() -> Iterator[tuple[list[int], int]]:
            for text, times in sentences:
                yield [ids.get(word, UNKNOWN) for word in text.split()], times

        size = len(words) + UNKNOWN + 1
        return cls(words, NgramModel.estimate(numbered(), size, BOUNDARY, order, least))

    def id_of(self, word: str) -> int:
        """A word's id, `UNKNOWN` where it is not known."""
        return self._ids.get(word, UNKNOWN)

    def log_prob(self, history: Sequence[int], word: int) -> float:
        """Natural log probability of a word's id after the ids before it."""
        return self.ngram.log_prob(history, word)

    def save(self, folder: Path) -> None:
        """Writes `WORDS_FILE` into a checkpoint's folder."""
        spelled = np.frombuffer("\n".join(self.words).encode(), np.uint8)
        save_arrays({**self.ngram.arrays, "words": spelled}, folder / WORDS_FILE)

    @classmethod
    def load(cls, folder: Path) -> WordModel | None:
        """The model of a checkpoint's folder, or None where it has none.

        Raises:
            ModelError: the file is damaged.
        """

        def build(arrays: dict[str, np.ndarray]) -> WordModel:
            words = arrays.pop("words").tobytes().decode().split("\n")
            return cls(words, NgramModel(arrays))

        return load_arrays(folder / WORDS_FILE, build)
