"""Temperatures, priors and thresholds of label heads, chosen on the `tune` half alone.

Heads learn all classes of a field as equally common. What the config calls `prior` is divided out
of their probabilities, so a class that is to be said more often has a small share there. It stays
as taught for Gender and Accent; for Age it makes the classes' recalls more alike; for Emotion it
finds as many feelings as leave ordinary talk Neutral nearly always.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import ConfigDict

from speechmeta.training.temperature import fit_temperature, log_loss, scaled

SHORT_SECONDS = 1.0
"""Turns shorter than this have a temperature and a threshold of their own."""


@dataclass(frozen=True)
class CalibrationOptions:
    """
    Attributes:
        least_right: by field, how often answers just above `abstain_below` are right at least.
        least_temperature: where nearly all is right, few mistakes say how sure to be.
        fitted_prior: fields whose prior is fitted to balanced log loss.
        prior_penalty: on the squares of that prior's logs, against few speakers.
        ordinary_anger: the most of ordinary talk that may be called Anger.
        ordinary_other: the most of ordinary talk that may be called anything but Neutral.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    least_right: Mapping[str, float] = field(
        default_factory=lambda: {"Gender": 0.85, "Age": 0.4, "Accent": 0.4}
    )
    least_right_short: float = 0.8
    least_temperature: float = 0.5
    fitted_prior: Sequence[str] = ("Age",)
    prior_penalty: float = 0.05
    ordinary_anger: float = 0.02
    ordinary_other: float = 0.1


@dataclass(frozen=True)
class Cases:
    """Clips of one field whose label is known.

    Attributes:
        logits: (clips, labels).
        truth: (clips,) places of the right labels.
        weights: (clips,) how much each counts for the temperature.
    """

    logits: np.ndarray
    truth: np.ndarray
    weights: np.ndarray


def balanced(truth: np.ndarray) -> np.ndarray:
    """Weights that make the classes count the same, with a mean of 1."""
    counts = np.bincount(truth)
    weights: np.ndarray = len(truth) / (np.count_nonzero(counts) * counts[truth])
    return weights


def calibrate(
    name: str,
    labels: Sequence[str],
    cases: Cases,
    short: Cases | None,
    ordinary: np.ndarray | None,
    options: CalibrationOptions,
) -> dict[str, Any]:
    """What a config says of one field.

    Args:
        cases: of whole clips.
        short: of parts under `SHORT_SECONDS`.
        ordinary: (clips, labels) logits of ordinary talk, for Emotion alone.
    """
    prior = np.full(len(labels), 1.0 / len(labels))
    temperature = fit_temperature(cases.logits, cases.truth, cases.weights)
    if name in options.fitted_prior:
        prior = fitted_prior(cases, temperature, options.prior_penalty)
        temperature = fit_temperature(cases.logits, cases.truth, cases.weights, np.log(prior))
    if ordinary is not None:
        prior = ordinary_prior(ordinary / temperature, labels, options)
        # Half of all speech is ordinary talk, which is taken to be Neutral.
        cases = with_neutral(cases, ordinary, labels.index("Neutral"))
        temperature = fit_temperature(cases.logits, cases.truth, cases.weights, np.log(prior))
        prior = ordinary_prior(ordinary / temperature, labels, options)
    temperature = max(temperature, options.least_temperature)
    result: dict[str, Any] = {
        "labels": list(labels),
        "temperature": round(temperature, 3),
        "prior": {
            label: round(float(share), 5) for label, share in zip(labels, prior, strict=True)
        },
        "abstain_below": threshold(
            scaled(cases.logits, temperature, np.log(prior)),
            cases.truth,
            options.least_right.get(name, 0.5),
            cases.weights,
        ),
    }
    if short is not None and len(short.truth):
        warmer = max(
            temperature, fit_temperature(short.logits, short.truth, short.weights, np.log(prior))
        )
        result["short"] = {
            "seconds": SHORT_SECONDS,
            "temperature": round(warmer, 3),
            "abstain_below": threshold(
                scaled(short.logits, warmer, np.log(prior)), short.truth, options.least_right_short
            ),
        }
    return result


def fitted_prior(cases: Cases, temperature: float, penalty: float) -> np.ndarray:
    """The prior whose division gives the least log loss with all classes alike; (labels,)."""
    from scipy.optimize import minimize

    weights = balanced(cases.truth)

    def loss(logs: np.ndarray) -> float:
        found = log_loss(cases.logits, cases.truth, temperature, weights, logs)
        return found + penalty * float(np.square(logs).sum())

    logs = minimize(loss, np.zeros(cases.logits.shape[1])).x
    shares: np.ndarray = np.exp(logs) / np.exp(logs).sum()
    return shares


def with_neutral(cases: Cases, ordinary: np.ndarray, neutral: int) -> Cases:
    """The cases and as much weight of ordinary talk whose right label is Neutral."""
    mass = cases.weights.sum() / len(ordinary)
    return Cases(
        np.concatenate([cases.logits, ordinary]),
        np.concatenate([cases.truth, np.full(len(ordinary), neutral)]),
        np.concatenate([cases.weights, np.full(len(ordinary), mass)]),
    )


def ordinary_prior(
    logits: np.ndarray, labels: Sequence[str], options: CalibrationOptions
) -> np.ndarray:
    """The prior whose division finds the most feelings and leaves ordinary talk Neutral.

    Args:
        logits: (clips, labels) of ordinary talk, after the temperature.

    Returns:
        (labels,) shares: those of all feelings are the same.
    """
    neutral, anger = labels.index("Neutral"), labels.index("Anger")
    for bonus in np.arange(-2.0, 6.01, 0.05):
        shifted = logits.copy()
        shifted[:, neutral] += bonus
        said = shifted.argmax(1)
        other, angry = np.mean(said != neutral), np.mean(said == anger)
        if angry <= options.ordinary_anger and other <= options.ordinary_other:
            break
    shares = np.ones(len(labels))
    shares[neutral] = np.exp(-bonus)
    result: np.ndarray = shares / shares.sum()
    return result


def threshold(
    log_probs: np.ndarray,
    truth: np.ndarray,
    least_right: float,
    weights: np.ndarray | None = None,
) -> float:
    """The probability below which a label is left out: there it is right too seldom.

    Looks at the least sure clips, a twentieth of all or more at a time, and goes up while they are
    right less often than `least_right`.
    """
    sure = np.exp(log_probs.max(1))
    right = (log_probs.argmax(1) == truth).astype(float)
    counted = np.ones(len(sure)) if weights is None else weights
    order = np.argsort(sure)
    sure, right, counted = sure[order], right[order], counted[order]
    window = max(10, len(sure) // 20)
    below = 0.0
    for start in range(0, len(sure) - window + 1, max(1, window // 4)):
        part = slice(start, start + window)
        if np.average(right[part], weights=counted[part]) >= least_right:
            break
        below = float(sure[start + window // 2])
    return round(below, 3)
