"""An n-gram model over tokens, which a CTC head's beam search leans on (shallow fusion).

A small decoder hears better than it spells; an n-gram of its tokens knows the spelling of words
and costs no forward pass. Interpolated absolute discounting (Ney, Essen and Kneser 1994).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from speechmeta.errors import ModelError, UsageError

NGRAM_FILE = "ngram.safetensors"
_DISCOUNT = 0.75
_MOST_KEPT = 20_000
_T = TypeVar("_T")

_Row = tuple[np.ndarray, np.ndarray, float]
"""Tokens that were seen after a context, ascending; their shares; what is left to others."""


class NgramModel:
    """Probabilities of the next token after up to `order - 1` tokens.

    Attributes:
        order: tokens of the longest n-gram.
        boundary: the id that stands before the first token and after the last.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.order, self.boundary = (int(value) for value in arrays["shape"])
        self._arrays = arrays
        self._unigram = arrays["unigram"].astype(np.float64)
        self._bits = _bits(len(self._unigram))
        self._kept: dict[tuple[int, ...], np.ndarray] = {}
        self._seen: dict[tuple[int, ...], list[_Row]] = {}

    @classmethod
    def estimate(
        cls,
        sequences: Iterable[tuple[Sequence[int], int]],
        vocab_size: int,
        boundary: int,
        order: int = 6,
        least: Sequence[int] = (1, 1, 3),
    ) -> NgramModel:
        """Counts n-grams.

        Args:
            sequences: token ids of a sentence, and how many times it counts.
            least: n-grams of two, three, ... tokens that occur less often are left out; the last
                number holds for all longer ones.

        Raises:
            UsageError: the order is not from 2 to what fits into 63 bits, there is no `least`, or
                there is no text.
        """
        bits = _bits(vocab_size)
        if not 2 <= order <= 63 // bits:
            raise UsageError(f"order {order} of an n-gram", f"choose 2 to {63 // bits}")
        if not least:
            raise UsageError("no least count of an n-gram", "give at least one")
        # Compact arrays: books have a hundred million tokens.
        flat, repeats = array("I"), array("I")
        for tokens, times in sequences:
            flat.extend([boundary] * (order - 1))
            flat.extend(tokens)
            flat.append(boundary)
            repeats.extend([0] * (order - 1))
            repeats.extend([times] * (len(tokens) + 1))
        stream = np.frombuffer(flat, np.uint32) if flat else np.zeros(0, np.uint32)
        often = np.frombuffer(repeats, np.uint32) if repeats else np.zeros(0, np.uint32)
        at = np.flatnonzero(often)
        if not len(at):
            raise UsageError("there is no text for an n-gram model", "give transcripts or text")
        counts = often[at].astype(np.float64)
        unigram = np.bincount(stream[at], counts, vocab_size) + 0.1
        arrays = {
            "shape": np.array([order, boundary], np.int64),
            "unigram": (unigram / unigram.sum()).astype(np.float32),
        }
        context = np.zeros(len(at), np.uint64)
        for length in range(1, order):
            # The newest token has the lowest bits, so that a longer context only adds above.
            context |= stream[at - length].astype(np.uint64) << np.uint64(bits * (length - 1))
            grams, totals = _counted((context << np.uint64(bits)) | stream[at], counts)
            arrays.update(_table(grams, totals, bits, length, least[min(length, len(least)) - 1]))
        return cls(arrays)

    def log_probs(self, context: Sequence[int]) -> np.ndarray:
        """(vocabulary) natural log probabilities after `context`, the newest token last."""
        padded = [self.boundary] * (self.order - 1) + list(context)
        key = tuple(padded[1 - self.order :])
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = self._look_up(key)
            if len(self._kept) > _MOST_KEPT:
                self._kept.clear()
        return found

    def log_prob(self, context: Sequence[int], token: int) -> float:
        """Natural log probability of one token, without those of a large vocabulary."""
        result = float(self._unigram[token])
        for tokens, shares, left in self._rows(context):
            place = int(tokens.searchsorted(token))
            seen = place < len(tokens) and int(tokens[place]) == token
            result = result * left + (float(shares[place]) if seen else 0.0)
        return math.log(result + 1e-12)

    def _look_up(self, context: Sequence[int]) -> np.ndarray:
        result = self._unigram
        for tokens, shares, left in self._rows(context):
            result = result * left
            result[tokens] += shares
        return np.log(result + 1e-12).astype(np.float32)

    def _rows(self, context: Sequence[int]) -> list[_Row]:
        """What was seen after the last token of a context, its last two, ..."""
        key = tuple(([self.boundary] * (self.order - 1) + list(context))[1 - self.order :])
        rows = self._seen.get(key)
        if rows is not None:
            return rows
        rows, number = [], 0
        for length in range(1, self.order):
            number |= key[-length] << (self._bits * (length - 1))
            owners = self._arrays[f"contexts.{length}"]
            place = int(owners.searchsorted(owners.dtype.type(number)))
            if place == len(owners) or int(owners[place]) != number:
                break
            start, stop = self._arrays[f"starts.{length}"][place : place + 2]
            shares = self._arrays[f"shares.{length}"][start:stop]
            # What is not given to n-grams that were seen goes to the shorter context's.
            left = max(1.0 - float(shares.sum(dtype=np.float64)), 0.0)
            rows.append((self._arrays[f"tokens.{length}"][start:stop], shares, left))
        if len(self._seen) > _MOST_KEPT:
            self._seen.clear()
        self._seen[key] = rows
        return rows

    def score(self, tokens: Sequence[int]) -> float:
        """Log probability of a whole sentence, its end included."""
        sentence = [*tokens, self.boundary]
        return float(
            sum(self.log_probs(sentence[:place])[token] for place, token in enumerate(sentence))
        )

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All that the model is made of."""
        return dict(self._arrays)

    def save(self, folder: Path) -> None:
        """Writes `NGRAM_FILE` into a checkpoint's folder."""
        save_arrays(self._arrays, folder / NGRAM_FILE)

    @classmethod
    def load(cls, folder: Path) -> NgramModel | None:
        """The model of a checkpoint's folder, or None where it has none.

        Raises:
            ModelError: the file is damaged.
        """
        return load_arrays(folder / NGRAM_FILE, cls)


def save_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes arrays as safetensors."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, path)


def load_arrays(path: Path, build: Callable[[dict[str, np.ndarray]], _T]) -> _T | None:
    """What `build` makes of a safetensors file, or None where there is none.

    Raises:
        ModelError: the file is damaged.
    """
    if not path.is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return build(load_file(path))
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ModelError(f"cannot read {path}: {error}", "the file is damaged") from error


def _counted(grams: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct numbers, ascending, and the sums of their counts."""
    order = np.argsort(grams)
    grams = grams[order]
    first = np.flatnonzero(np.r_[True, grams[1:] != grams[:-1]])
    return grams[first], np.add.reduceat(counts[order], first)


def _table(
    grams: np.ndarray, often: np.ndarray, bits: int, length: int, least: int
) -> dict[str, np.ndarray]:
    """The arrays for contexts of `length` tokens: rows of tokens and their discounted shares."""
    owners, first = np.unique(grams >> np.uint64(bits), return_index=True)
    sizes = np.diff([*first, len(grams)])
    totals = np.repeat(np.add.reduceat(often, first), sizes)
    kept = often >= least
    shares = np.maximum(often - _DISCOUNT, 0.0) / totals
    rows = np.repeat(np.arange(len(owners)), sizes)[kept]
    sizes = np.bincount(rows, minlength=len(owners))
    some = sizes > 0
    narrow = np.uint32 if bits * length <= 32 else np.uint64
    return {
        f"contexts.{length}": owners[some].astype(narrow),
        f"starts.{length}": np.cumsum([0, *sizes[some]]).astype(np.uint32),
        f"tokens.{length}": (grams[kept] & np.uint64((1 << bits) - 1)).astype(np.uint16),
        f"shares.{length}": shares[kept].astype(np.float16),
    }


def _bits(vocab_size: int) -> int:
    return max(1, (vocab_size - 1).bit_length())
