"""Recordings inside a page, as data URIs: small Opus and MP3 files as they are, else as Opus."""

from __future__ import annotations

import base64
from pathlib import Path

from speechmeta.errors import SpeechMetaError

PLAYABLE = {".opus": "audio/ogg", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}
"""Files that every browser plays and that are small for their length."""

MAX_BYTES = 300_000
"""Largest sound in a page: about two minutes of Opus."""


def audio_data_uri(path: str, *, trusted: bool = True) -> str | None:
    """A recording as a data URI; None where it cannot be read, or is too long for a page.

    Args:
        path: the file.
        trusted: it has been decoded before, so that its bytes may go into the page as they are.
    """
    # Here, not above: most pages need no encoder.
    from speechmeta.writers.sound import as_opus

    kind = PLAYABLE.get(Path(path).suffix.lower())
    try:
        if trusted and kind and Path(path).stat().st_size <= MAX_BYTES:
            return _uri(kind, Path(path).read_bytes())
    except OSError:
        return None
    try:
        data = as_opus(path, most_bytes=MAX_BYTES)
    except SpeechMetaError:
        # The clip is in the list because it could not be read; the page says so.
        return None
    return None if data is None else _uri("audio/webm", data)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64," + base64.b64encode(data).decode("ascii")
