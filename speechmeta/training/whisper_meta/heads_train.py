"""Label heads fitted on pooled hidden states: logistic regression by scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from speechmeta.errors import DatasetError
from speechmeta.training.manifest import Clip
from speechmeta.training.whisper_meta.heads_targets import (
    TAUGHT,
    TargetOptions,
    Targets,
    field_targets,
)

if TYPE_CHECKING:
    from speechmeta.models.whisper_meta.heads import LabelHeads

STRENGTH = 1e-3
"""scikit-learn's `C`: the inverse of the penalty on weights of standardised values."""

DIMENSIONS = 768
"""Principal components that the regressions see: what the crops span, in a tenth of the time."""


@dataclass(frozen=True)
class Projection:
    """Standardised and projected statistics, shared by all fields of a set of heads.

    Attributes:
        center, scale: (values,) of a crop's statistics.
        components: (dimensions, values), orthonormal.
    """

    center: np.ndarray
    scale: np.ndarray
    components: np.ndarray

    @staticmethod
    def fit(values: np.ndarray, dimensions: int = DIMENSIONS, seed: int = 0) -> Projection:
        """Of (crops, values) float32, which are standardised in place."""
        from sklearn.utils.extmath import randomized_svd

        center, scale = values.mean(0), values.std(0) + 1e-4
        values -= center
        values /= scale
        most = min(dimensions, *values.shape)
        _, _, components = randomized_svd(values, most, n_iter=2, random_state=seed)
        return Projection(center, scale, components.astype(np.float32))

    def unfolded(self, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights (labels, values) and biases on statistics as they are."""
        whole = weight @ self.components / self.scale
        return whole.astype(np.float32), (bias - whole @ self.center).astype(np.float32)


def fit_heads(
    rows: np.ndarray,
    clips: Sequence[Clip | None],
    options: TargetOptions | None = None,
    strengths: Mapping[str, float] | None = None,
) -> LabelHeads:
    """Heads for all fields of which the clips show at least two labels.

    Args:
        rows: (crops, layers, 2, width), mean and deviation of each layer.
        clips: of each crop; None for made-up audio without speech.
        strengths: by field another `C` than `STRENGTH`.

    Raises:
        DatasetError: there is no such field.
    """
    import torch

    from speechmeta.models.whisper_meta.heads import LabelHeads

    targets = {field: field_targets(clips, field, options) for field in TAUGHT}
    fields = {
        field: labels
        for field, labels in TAUGHT.items()
        if np.count_nonzero((targets[field].wanted[targets[field].weights > 0] > 0).any(0)) > 1
    }
    if not fields:
        raise DatasetError(
            "no field of the training clips has two labels", "give manifests with labels"
        )
    heads = LabelHeads(fields, rows.shape[1], rows.shape[3]).eval()
    values = rows.reshape(len(rows), -1).astype(np.float32)
    projection = Projection.fit(values)
    points = values @ projection.components.T
    state = {}
    for field in fields:
        found = fit_field(points, targets[field], (strengths or {}).get(field, STRENGTH))
        weight, bias = projection.unfolded(*found)
        state[f"linear.{field}.weight"] = torch.from_numpy(weight)
        state[f"linear.{field}.bias"] = torch.from_numpy(bias)
    heads.load_state_dict(state)
    return heads


def fit_field(
    points: np.ndarray, targets: Targets, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (labels, dimensions) and biases (labels,) by multinomial logistic regression.

    Args:
        points: (crops, dimensions), centred.
    """
    from sklearn.linear_model import LogisticRegression

    # A crop whose target names two labels counts as one of each, by their shares.
    places, labels = np.nonzero(targets.wanted * (targets.weights > 0)[:, None])
    model = LogisticRegression(C=strength, max_iter=300)
    shares = targets.weights[places] * targets.wanted[places, labels]
    model.fit(points[places], labels, shares)
    count = targets.wanted.shape[1]
    # A label that nobody taught keeps weights of zero and a bias that never wins.
    weight, bias = np.zeros((count, points.shape[1])), np.full(count, -20.0)
    if len(model.classes_) == 2:
        # One row of weights stands for the second class against the first.
        bias[model.classes_[0]] = 0.0
        weight[model.classes_[1]], bias[model.classes_[1]] = model.coef_[0], model.intercept_[0]
    else:
        weight[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
    return weight, bias
