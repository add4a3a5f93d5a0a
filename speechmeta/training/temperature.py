"""Temperature scaling: probabilities that are right as often as they say (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np

TEMPERATURES = np.geomspace(0.1, 10.0, 231)
"""What is tried; neighbours differ by about 2 %."""


def scaled(
    log_probs: np.ndarray, temperature: float, log_prior: np.ndarray | float = 0.0
) -> np.ndarray:
    """Log probabilities under a temperature, with a prior divided out behind it.

    Args:
        log_probs: (clips, labels), or logits.
        log_prior: (labels,) or (clips, labels), or 0 for none.
    """
    values = log_probs / temperature - log_prior
    normed: np.ndarray = values - np.logaddexp.reduce(values, axis=1, keepdims=True)
    return normed


def log_loss(
    log_probs: np.ndarray,
    truth: np.ndarray,
    temperature: float = 1.0,
    weights: np.ndarray | None = None,
    log_prior: np.ndarray | float = 0.0,
) -> float:
    """Mean negative log probability of the right labels.

    Args:
        log_probs: (clips, labels), or logits.
        truth: (clips,) places of the right labels.
        weights: (clips,), or None for equal ones.
        log_prior: as `scaled` takes it.
    """
    right = scaled(log_probs, temperature, log_prior)[np.arange(len(truth)), truth]
    return float(-np.average(right, weights=weights))


def fit_temperature(
    log_probs: np.ndarray,
    truth: np.ndarray,
    weights: np.ndarray | None = None,
    log_prior: np.ndarray | float = 0.0,
) -> float:
    """The temperature with the least log loss; arguments as `log_loss` takes them."""
    return float(
        min(
            TEMPERATURES,
            key=lambda value: log_loss(log_probs, truth, float(value), weights, log_prior),
        )
    )
