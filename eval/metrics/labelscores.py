"""Measures of one label field: accuracy, UAR, macro F1, confusion, calibration.

Conventions, which the reports repeat:
- UAR (balanced accuracy) and macro F1 average over the classes that occur in the references.
- A clip without a predicted label (abstained, judged to be no speech, or failed) is wrong;
  `coverage` is the share of clips that have one. With `ignore_abstained`, clips whose label
  is null are left out instead; failed clips stay wrong.
- Calibration looks at the most probable class and its probability, whether or not the system
  then abstained; clips without probabilities have no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bootstrap import Array, interval, ratio

NO_LABEL = "(none)"
BINS = 15
CHANCE_DRAWS = 500
"""Equal-width bins of the expected calibration error, as Guo et al. 2017 (arXiv 1706.04599)."""


@dataclass(frozen=True)
class LabelCase:
    """One clip whose label is known.

    Attributes:
        unit: the speaker, for the bootstrap.
        reference: the class.
        prediction: the predicted class, None where there is none.
        failed: the clip has no result at all.
        probabilities: the distribution over the classes, empty where there is none.
    """

    unit: str
    reference: str
    prediction: str | None
    failed: bool = False
    probabilities: Mapping[str, float] | None = None

    @property
    def correct(self) -> bool:
        return self.prediction == self.reference

    @property
    def top(self) -> tuple[str, float] | None:
        """The most probable class and its probability."""
        if not self.probabilities:
            return None
        label, probability = max(self.probabilities.items(), key=lambda item: item[1])
        return label, float(probability)


def score_labels(
    cases: Sequence[LabelCase], classes: Sequence[str], *, ignore_abstained: bool = False
) -> dict[str, Any] | None:
    """All measures of one field, JSON-ready; None without cases.

    Args:
        cases: the clips whose reference is known.
        classes: the classes of the field in the order of the report; classes that occur in
            the cases and are not among them follow.
    """
    known = len(cases)
    answered = sum(case.prediction is not None for case in cases)
    if ignore_abstained:
        cases = [case for case in cases if case.prediction is not None or case.failed]
    if not cases:
        return None
    seen = {case.reference for case in cases} | {c.prediction for c in cases if c.prediction}
    names = [*classes, *sorted(seen - set(classes))]
    matrix = confusion(cases, names)
    units = [case.unit for case in cases]
    flat = _one_hot_confusion(cases, names)
    correct = np.array([[float(case.correct), 1.0] for case in cases])
    size = len(names)
    result: dict[str, Any] = {
        "n": len(cases),
        "accuracy": float(correct[:, 0].mean()),
        "accuracy_interval": interval(units, correct, ratio),
        "uar": float(_uar(matrix[None].reshape(1, -1).astype(float), size)[0]),
        "uar_interval": interval(units, flat, lambda sums: _uar(sums, size)),
        "macro_f1": float(_macro_f1(matrix[None].reshape(1, -1).astype(float), size)[0]),
        "macro_f1_interval": interval(units, flat, lambda sums: _macro_f1(sums, size)),
        "coverage": answered / known,
        "classes_in_references": [n for i, n in enumerate(names) if matrix[i].sum()],
        "majority_accuracy": float(matrix.sum(axis=1).max() / len(cases)),
        "confusion": {
            "rows": names,
            "columns": [*names, NO_LABEL],
            "counts": matrix.tolist(),
        },
        "per_class": _per_class(matrix, names),
    }
    result.update(calibration([case for case in cases if case.top is not None]))
    return result


def confusion(cases: Sequence[LabelCase], names: Sequence[str]) -> NDArray[np.int64]:
    """(classes, classes + 1) counts; rows are references, the last column is no label."""
    from sklearn.metrics import confusion_matrix

    columns = [*names, NO_LABEL]
    square = confusion_matrix(
        [case.reference for case in cases],
        [case.prediction or NO_LABEL for case in cases],
        labels=columns,
    )
    result: NDArray[np.int64] = np.asarray(square[: len(names)], dtype=np.int64)
    return result


def calibration(cases: Sequence[LabelCase]) -> dict[str, Any]:
    """Expected calibration error, reliability bins and the risk-coverage curve.

    `ece` is None where no clip has probabilities. `ece_by_chance` is what a perfectly calibrated
    system with the same confidences would have on so many clips, on average: with few clips
    the error is never near 0 (Roelofs et al. 2022).
    """
    pairs = [(case.top, case.reference, case.unit) for case in cases]
    tops = [(top[1], float(top[0] == ref), unit) for top, ref, unit in pairs if top is not None]
    if not tops:
        return {
            "ece": None,
            "ece_interval": None,
            "ece_by_chance": None,
            "ece_n": 0,
            "reliability": [],
            "risk": None,
        }
    confidence = np.array([item[0] for item in tops])
    correct = np.array([item[1] for item in tops])
    # A confidence of exactly 1 belongs to the last bin.
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    values = np.zeros((len(tops), BINS, 3))
    rows = np.arange(len(tops))
    values[rows, bins, 0], values[rows, bins, 1], values[rows, bins, 2] = 1, confidence, correct
    sums = values.sum(axis=0)
    return {
        "ece": float(_ece(sums.reshape(1, -1))[0]),
        "ece_interval": interval([t[2] for t in tops], values.reshape(len(tops), -1), _ece),
        "ece_by_chance": _ece_by_chance(confidence, bins),
        "ece_n": len(tops),
        "mean_confidence": float(confidence.mean()),
        "reliability": [
            {
                "from": i / BINS,
                "to": (i + 1) / BINS,
                "n": int(sums[i, 0]),
                "confidence": float(sums[i, 1] / sums[i, 0]),
                "accuracy": float(sums[i, 2] / sums[i, 0]),
            }
            for i in range(BINS)
            if sums[i, 0]
        ],
        "risk": risk_coverage(confidence, correct),
    }


def risk_coverage(confidence: Array, correct: Array) -> dict[str, Any]:
    """Error rate among the most confident share of clips, for every tenth, and its area.

    `aurc` is the mean of the error rate over all coverages 1/n to 1 (Geifman and El-Yaniv
    2017). Ties in confidence are answered together: their errors are spread evenly.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, hit = confidence[order], correct[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    sizes = np.diff(np.r_[starts, len(ranked)])
    wrong = np.repeat(np.add.reduceat(1 - hit, starts) / sizes, sizes)
    risks = np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
    points = [max(1, round(len(wrong) * tenth / 10)) for tenth in range(1, 11)]
    return {
        "aurc": float(risks.mean()),
        "curve": [
            {
                "coverage": point / len(wrong),
                "risk": float(risks[point - 1]),
                "threshold": float(ranked[point - 1]),
            }
            for point in points
        ],
    }


def _one_hot_confusion(cases: Sequence[LabelCase], names: Sequence[str]) -> Array:
    place = {name: i for i, name in enumerate(names)}
    values = np.zeros((len(cases), len(names), len(names) + 1))
    for row, case in enumerate(cases):
        column = len(names) if case.prediction is None else place[case.prediction]
        values[row, place[case.reference], column] = 1
    return values.reshape(len(cases), -1)


def _uar(sums: Array, size: int) -> Array:
    matrix = sums.reshape(*sums.shape[:-1], size, size + 1)
    support = matrix.sum(-1)
    recalls = np.diagonal(matrix, axis1=-2, axis2=-1) / np.where(support, support, 1)
    return _mean_over_present(recalls, support)


def _macro_f1(sums: Array, size: int) -> Array:
    matrix = sums.reshape(*sums.shape[:-1], size, size + 1)
    support, predicted = matrix.sum(-1), matrix[..., :size].sum(-2)
    both = support + predicted
    f1 = 2 * np.diagonal(matrix, axis1=-2, axis2=-1) / np.where(both, both, 1)
    return _mean_over_present(f1, support)


def _mean_over_present(values: Array, support: Array) -> Array:
    present = support > 0
    result: Array = np.where(present, values, 0).sum(-1) / present.sum(-1)
    return result


def _ece(sums: Array) -> Array:
    bins = sums.reshape(*sums.shape[:-1], BINS, 3)
    gaps = np.abs(bins[..., 1] - bins[..., 2]).sum(-1)
    result: Array = gaps / bins[..., 0].sum(-1)
    return result


def _ece_by_chance(confidence: Array, bins: NDArray[np.int64]) -> float:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(CHANCE_DRAWS):
        gaps = confidence - (rng.random(len(confidence)) < confidence)
        errors.append(np.abs(np.bincount(bins, gaps, BINS)).sum() / len(confidence))
    return float(np.mean(errors))


def _per_class(matrix: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for i, name in enumerate(names):
        support, predicted = int(matrix[i].sum()), int(matrix[:, i].sum())
        hit = int(matrix[i, i])
        result[name] = {
            "support": support,
            "predicted": predicted,
            "recall": hit / support if support else None,
            "precision": hit / predicted if predicted else None,
            "f1": 2 * hit / (support + predicted) if support else None,
        }
    return result
