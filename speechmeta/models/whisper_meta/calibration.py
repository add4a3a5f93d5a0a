"""From a head's logits to probabilities: temperature first, then the prior of its training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def calibrated(
    labels: Sequence[str], logits: Sequence[float], head: Mapping[str, Any], seconds: float
) -> dict[str, float]:
    """The probabilities by label; those of SpeechActivity as "True" and "False".

    Args:
        labels: of the logits, in their order.
        head: of the config: `temperature`, by which logits are divided (Guo et al.,
            arXiv 1706.04599), and `prior`, by label how common it was in training, by which
            probabilities are divided afterwards (Menon et al., arXiv 2007.07314).
        seconds: length of the clip; short clips have a temperature of their own, see `setting`.
    """
    temperature = setting(head, "temperature", seconds, 1.0)
    prior = head.get("prior") or {}
    scores = [
        logit / temperature - (math.log(prior[label]) if label in prior else 0.0)
        for label, logit in zip(labels, logits, strict=True)
    ]
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    total = sum(weights)
    return {
        label.capitalize() if label in ("true", "false") else label: weight / total
        for label, weight in zip(labels, weights, strict=True)
    }


def setting(head: Mapping[str, Any], name: str, seconds: float, default: float) -> float:
    """A number of a head's config for a clip of this many seconds.

    What stands under `short` holds for clips shorter than its `seconds`: of half a second less
    can be told than of five, and a head that was calibrated on long clips is too sure of it.
    """
    short = head.get("short") or {}
    if name in short and seconds < float(short["seconds"]):
        return float(short[name])
    return float(head.get(name, default))


__all__ = ["calibrated", "setting"]
