"""By what a database knows a recording: its bytes, wherever they lie and whatever their name."""

from __future__ import annotations

import hashlib
import os

from speechmeta.audio.remote import fetched, is_address
from speechmeta.errors import AudioError
from speechmeta.writers.files import printable


def digest_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, or of what is at an address, as 64 hexadecimal digits.

    Raises:
        AudioError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with fetched(str(path)) if is_address(path) else open(path, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise AudioError(f"cannot read {printable(path)}: {reason}") from error
    return digest.hexdigest()


__all__ = ["digest_of"]
