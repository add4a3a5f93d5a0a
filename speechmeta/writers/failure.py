"""The record of a recording that could not be analysed."""

from __future__ import annotations

from typing import Any

from speechmeta.errors import SpeechMetaError
from speechmeta.writers.files import printable


def error_record(path: str, error: SpeechMetaError | tuple[str, str]) -> dict[str, Any]:
    """What stands in the place of a report: `{"audio": ..., "error": ...}`.

    Args:
        path: of the file, printable.
        error: one of ours, or the type and message of another.
    """
    if isinstance(error, SpeechMetaError):
        kind, message, hint = type(error).__name__, error.message, error.hint
    else:
        kind, message, hint = error[0], " ".join(error[1].split()), ""
    # Messages may quote names that are not UTF-8.
    texts = {"type": kind, "message": printable(message), "hint": printable(hint)}
    return {"audio": {"path": path}, "error": texts}
