"""Percentile bootstrap intervals over speakers.

Clips of one speaker are not independent observations, so speakers are resampled, with all
their clips. Every measure here is a function of sums over clips, so that a resample is a
weighted sum of each speaker's sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""From sums (..., k) to the measure (...); NaN where it is not defined."""

RESAMPLES = 1000
LEVEL = 0.95
SEED = 20240626


def sum_by_unit(units: Sequence[str], values: Array) -> Array:
    """Rows of `values` (clips, k) added up by unit: (units, k), in order of appearance."""
    index: dict[str, int] = {}
    places = np.array([index.setdefault(unit, len(index)) for unit in units], dtype=np.int64)
    sums = np.zeros((len(index), values.shape[1]))
    np.add.at(sums, places, values)
    return sums


def resampled(sums: Array, statistic: Statistic, resamples: int = RESAMPLES) -> Array:
    """The statistic on `resamples` draws of the rows of `sums` with replacement: (resamples,)."""
    generator = np.random.default_rng(SEED)
    units = len(sums)
    results = []
    # In parts: with a speaker a clip, the weights would be clips by resamples.
    for start in range(0, resamples, 100):
        size = min(100, resamples - start)
        weights = generator.multinomial(units, np.full(units, 1 / units), size=size)
        with np.errstate(invalid="ignore", divide="ignore"):
            results.append(statistic(weights.astype(np.float64) @ sums))
    return np.concatenate(results)


def interval(
    units: Sequence[str], values: Array, statistic: Statistic, resamples: int = RESAMPLES
) -> list[float] | None:
    """The 95 % percentile interval of a statistic of summed `values` (clips, k).

    None with fewer than two units, or where most resamples leave the statistic undefined.
    """
    if len(values) == 0:
        return None
    sums = sum_by_unit(units, values)
    if len(sums) < 2:
        return None
    draws = resampled(sums, statistic, resamples)
    draws = draws[np.isfinite(draws)]
    if len(draws) < resamples / 2:
        return None
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return [float(low), float(high)]


def ratio(sums: Array) -> Array:
    """The first column by the second."""
    result: Array = sums[..., 0] / sums[..., 1]
    return result
