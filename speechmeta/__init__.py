"""Call recordings as validated JSON: who speaks when, what is said, how the voices sound."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from speechmeta.version import __version__

if TYPE_CHECKING:
    from speechmeta.chat.model import ChatModel
    from speechmeta.errors import SpeechMetaError
    from speechmeta.models.loading import load_model
    from speechmeta.pipeline.analyzer import Analyzer, analyze_call, generate_meta
    from speechmeta.schema import CallReport, SpeakerMeta

__all__ = [
    "Analyzer",
    "CallReport",
    "ChatModel",
    "SpeakerMeta",
    "SpeechMetaError",
    "__version__",
    "analyze_call",
    "generate_meta",
    "load_model",
]

_HOMES = {
    "ChatModel": "speechmeta.chat.model",
    "Analyzer": "speechmeta.pipeline.analyzer",
    "analyze_call": "speechmeta.pipeline.analyzer",
    "generate_meta": "speechmeta.pipeline.analyzer",
    "SpeechMetaError": "speechmeta.errors",
    "load_model": "speechmeta.models.loading",
    "CallReport": "speechmeta.schema",
    "SpeakerMeta": "speechmeta.schema",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `speechmeta --help` and the schema need no torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
