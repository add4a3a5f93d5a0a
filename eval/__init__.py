"""Measuring systems on speech data sets: readers, label tables, measures, reports.

from speechmeta.eval import evaluate
report = evaluate("manifest", "dev.jsonl", model="path/to/checkpoint")
print(report["wer"], report["labels"]["Gender"]["uar"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evaluation import evaluate
    from .readers.registry import read_dataset
    from .types import Clip, Dataset, Prediction, Predictor

__all__ = ["Clip", "Dataset", "Prediction", "Predictor", "evaluate", "read_dataset"]

_HOMES = {
    "evaluate": ".evaluation",
    "read_dataset": ".readers.registry",
    "Clip": ".types",
    "Dataset": ".types",
    "Prediction": ".types",
    "Predictor": ".types",
}


def __getattr__(name: str) -> Any:
    # Lazy, as the package itself: the command line imports this before it knows the command.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
