"""From the scores of a closed set's options to probabilities and a choice."""

from __future__ import annotations

import math
from collections.abc import Sequence

from speechmeta.decoding.grammar import Option
from speechmeta.errors import DecodingError


def common_prefix(options: Sequence[Option]) -> int:
    """How many tokens all options begin with; they say nothing about the choice."""
    shortest = min(len(option.tokens) for option in options)
    count = 0
    while count < shortest and len({option.tokens[count] for option in options}) == 1:
        count += 1
    # The last token stays: an only option is a choice of one.
    return min(count, shortest - 1)


def choose(
    options: Sequence[Option],
    scores: Sequence[float],
) -> tuple[dict[str, float], Option]:
    """The distribution over the labels and the option to write.

    Args:
        options: the ways to write each label.
        scores: each option's log probability, up to a constant.

    Returns:
        Probabilities by label, which sum to one, the ways to write a label added up; and the
        most probable way to write the most probable label.

    Raises:
        DecodingError: a score is not a number.
    """
    if not all(math.isfinite(score) for score in scores):
        raise DecodingError(
            "the model's label scores are not finite", "decode in float32 or bfloat16"
        )
    best: dict[str, tuple[float, Option]] = {}
    parts: dict[str, list[float]] = {}
    for option, score in zip(options, scores, strict=True):
        parts.setdefault(option.label, []).append(score)
        if option.label not in best or score > best[option.label][0]:
            best[option.label] = (score, option)
    totals = {label: _log_sum(values) for label, values in parts.items()}
    norm = _log_sum(list(totals.values()))
    winner = max(totals, key=lambda label: totals[label])
    return {label: math.exp(value - norm) for label, value in totals.items()}, best[winner][1]


def _log_sum(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))
