"""Word and character errors, as counts that add up over a corpus.

The alignment is jiwer's. Rates are made from summed counts, never from a mean of rates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class EditCounts:
    """Counts of an alignment of a hypothesis with a reference."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference(self) -> int:
        """How many words or characters the reference has."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float | None:
        """Errors by reference length; may exceed 1; None without a reference."""
        return self.errors / self.reference if self.reference else None


def total(counts: Iterable[EditCounts]) -> EditCounts:
    """The sum of counts."""
    sums = dict.fromkeys((item.name for item in fields(EditCounts)), 0)
    for count in counts:
        for name in sums:
            sums[name] += getattr(count, name)
    return EditCounts(**sums)


def word_counts(reference: str, hypothesis: str) -> EditCounts:
    """Word edits between two normalised texts; the reference is not empty.

    Raises:
        ValueError: the reference is empty: a rate over it would be meaningless.
    """
    import jiwer

    if not reference.strip():
        raise ValueError("the reference is empty")
    return _counts(jiwer.process_words(reference, hypothesis))


def character_counts(reference: str, hypothesis: str) -> EditCounts:
    """Character edits, spaces counted, between two normalised texts.

    Raises:
        ValueError: the reference is empty.
    """
    import jiwer

    if not reference.strip():
        raise ValueError("the reference is empty")
    return _counts(jiwer.process_characters(reference, hypothesis))


def aligned(reference: str, hypothesis: str) -> list[tuple[str, str, str]]:
    """The word alignment as (operation, reference words, hypothesis words).

    The operation is `equal`, `substitute`, `delete` or `insert`.
    """
    import jiwer

    if not reference.strip():
        return [("insert", "", hypothesis)] if hypothesis.strip() else []
    output = jiwer.process_words(reference, hypothesis)
    ref, hyp = output.references[0], output.hypotheses[0]
    return [
        (
            chunk.type,
            " ".join(ref[chunk.ref_start_idx : chunk.ref_end_idx]),
            " ".join(hyp[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in output.alignments[0]
    ]


def _counts(output: object) -> EditCounts:
    return EditCounts(**{item.name: getattr(output, item.name) for item in fields(EditCounts)})
