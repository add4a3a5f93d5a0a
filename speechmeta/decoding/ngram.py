"""An n-gram model over tokens, which a CTC head's beam search leans on (shallow fusion).

A small decoder hears better than it spells; an n-gram of its tokens knows the spelling of words
and costs no forward pass. Interpolated absolute discounting (Ney, Essen and Kneser 1994).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from speechmeta.errors import ModelError, UsageError

NGRAM_FILE = "ngram.safetensors"
_DISCOUNT = 0.75


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

    @classmethod
    def estimate(
        cls,
        sequences: Iterable[tuple[Sequence[int], int]],
        vocab_size: int,
        boundary: int,
        order: int = 6,
        least: int = 3,
    ) -> NgramModel:
        """Counts n-grams.

        Args:
            sequences: token ids of a sentence, and how many times it counts.
            least: n-grams of four and more tokens that occur less often are left out.

        Raises:
            UsageError: the order is not from 2 to what fits into 63 bits, or there is no text.
        """
        bits = _bits(vocab_size)
        if not 2 <= order <= 63 // bits:
            raise UsageError(f"order {order} of an n-gram", f"choose 2 to {63 // bits}")
        flat: list[int] = []
        ends: list[int] = []
        counts: list[int] = []
        for tokens, times in sequences:
            flat += [boundary] * (order - 1)
            for token in (*tokens, boundary):
                ends.append(len(flat))
                flat.append(token)
            counts += [times] * (len(tokens) + 1)
        if not ends:
            raise UsageError("there is no text for an n-gram model", "give transcripts or text")
        stream, at = np.array(flat, np.uint64), np.array(ends)
        times_of = np.array(counts, np.float64)
        unigram = np.bincount(stream[at].astype(int), times_of, vocab_size) + 0.1
        arrays = {
            "shape": np.array([order, boundary], np.int64),
            "unigram": (unigram / unigram.sum()).astype(np.float32),
        }
        context = np.zeros(len(at), np.uint64)
        shift = np.uint64(bits)
        for length in range(1, order):
            # The newest token has the lowest bits, so that a longer context only adds above.
            context |= stream[at - length] << np.uint64(bits * (length - 1))
            grams, inverse = np.unique((context << shift) | stream[at], return_inverse=True)
            often = np.bincount(inverse, times_of)
            kept = often >= (least if length >= 3 else 1)
            owners, first = np.unique(grams >> shift, return_index=True)
            totals = np.add.reduceat(often, first)
            shares = np.maximum(often - _DISCOUNT, 0.0) / np.repeat(
                totals, np.diff([*first, len(grams)])
            )
            rows = np.repeat(np.arange(len(owners)), np.diff([*first, len(grams)]))[kept]
            sizes = np.bincount(rows, minlength=len(owners))
            some = sizes > 0
            arrays[f"contexts.{length}"] = owners[some]
            arrays[f"starts.{length}"] = np.cumsum([0, *sizes[some]]).astype(np.uint32)
            arrays[f"tokens.{length}"] = (grams[kept] & np.uint64((1 << bits) - 1)).astype(
                np.uint16
            )
            arrays[f"shares.{length}"] = shares[kept].astype(np.float16)
        return cls(arrays)

    def log_probs(self, context: Sequence[int]) -> np.ndarray:
        """(vocabulary) natural log probabilities after `context`, the newest token last."""
        padded = [self.boundary] * (self.order - 1) + list(context)
        key = tuple(padded[1 - self.order :])
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = self._look_up(key)
            if len(self._kept) > 20_000:
                self._kept.clear()
        return found

    def _look_up(self, context: Sequence[int]) -> np.ndarray:
        result = self._unigram
        number = 0
        for length in range(1, self.order):
            number |= context[-length] << (self._bits * (length - 1))
            owners = self._arrays[f"contexts.{length}"]
            row = int(np.searchsorted(owners, np.uint64(number)))
            if row == len(owners) or int(owners[row]) != number:
                break
            start, stop = self._arrays[f"starts.{length}"][row : row + 2]
            shares = self._arrays[f"shares.{length}"][start:stop].astype(np.float64)
            # What is not given to n-grams that were seen goes to the shorter context's.
            result = result * (1.0 - shares.sum())
            result[self._arrays[f"tokens.{length}"][start:stop]] += shares
        return np.log(result + 1e-12)

    def score(self, tokens: Sequence[int]) -> float:
        """Log probability of a whole sentence, its end included."""
        sentence = [*tokens, self.boundary]
        return float(
            sum(self.log_probs(sentence[:place])[token] for place, token in enumerate(sentence))
        )

    def save(self, folder: Path) -> None:
        """Writes `NGRAM_FILE` into a checkpoint's folder."""
        from safetensors.numpy import save_file

        save_file({name: np.ascontiguousarray(a) for name, a in self._arrays.items()},
                  folder / NGRAM_FILE)  # fmt: skip

    @classmethod
    def load(cls, folder: Path) -> NgramModel | None:
        """The model of a checkpoint's folder, or None where it has none.

        Raises:
            ModelError: the file is damaged.
        """
        path = folder / NGRAM_FILE
        if not path.is_file():
            return None
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return cls(load_file(path))
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise ModelError(f"cannot read {path}: {error}", "the file is damaged") from error


def _bits(vocab_size: int) -> int:
    return max(1, (vocab_size - 1).bit_length())
