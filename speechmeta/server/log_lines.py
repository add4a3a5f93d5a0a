"""The server's log: one line an event, as text or JSON; never a transcript, a name or a path."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

LOGGER = "speechmeta.server"

_OWN = (
    "id",
    "method",
    "route",
    "status",
    "seconds",
    "audio_seconds",
    "turns",
    "kind",
    "where",
    "job",
    "why",
)
"""What an event may say beside its name; nothing that a client chose is among it. `why` is what a
database says of itself."""


class _Line(logging.Formatter):
    """Writes what is in `_OWN` and no message of an exception, which may quote paths."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        moment = f"{stamp}.{int(record.msecs):03d}Z"
        own = {name: getattr(record, name) for name in _OWN if hasattr(record, name)}
        if record.exc_info and record.exc_info[0] is not None:
            own["kind"] = record.exc_info[0].__name__
        ours = record.name.startswith(LOGGER)
        event = record.getMessage() if ours else record.name
        if self._as_json:
            return json.dumps({"time": moment, "level": record.levelname, "event": event, **own})
        more = " ".join(f"{name}={value}" for name, value in own.items())
        return f"{moment} {event} {more}".rstrip()


def set_up(kind: Literal["text", "json"]) -> None:
    """Sends the server's log, and that of what it stands on, to stderr, line by line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line(kind == "json"))
    # Of others only errors: python-multipart warns of every form that is none.
    others = ("uvicorn", "asyncio", "python_multipart")
    for name, level in ((LOGGER, logging.INFO), *((name, logging.ERROR) for name in others)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False


def place_of(error: BaseException) -> str:
    """Where an exception came from: file and line of the code, without its message."""
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "?")
    return f"{name}:{trace.tb_lineno}"
