"""Who may use the server: API keys from a file, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from starlette.requests import HTTPConnection

from speechmeta.errors import UsageError
from speechmeta.server.options import ServeOptions
from speechmeta.server.problems import Refused
from speechmeta.writers.files import printable

MIN_CHARACTERS = 16
_OPEN = frozenset({"/healthz", "/readyz"})
"""Answered without a key: they say nothing but whether the server runs."""


class Keys:
    """The keys that are accepted; without any, everybody is.

    Args:
        keys: the keys themselves; only their digests are kept.
    """

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def share(self, most: int) -> int:
        """How much of something one key may have: half, where others have keys too."""
        return most if len(self._digests) < 2 else (most + 1) // 2

    def owner(self, request: HTTPConnection) -> str:
        """A name of the key that a request carries; empty where no key is needed.

        Raises:
            Refused: there is no key, or it is not one of these.
        """
        if not self._digests or request.url.path in _OPEN:
            return ""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return self.owner_by(key.strip() if scheme.lower() == "bearer" else None)

    def owner_by(self, key: str | None) -> str:
        """As `owner`, by a key that came in some other way; None where none came."""
        if not self._digests:
            return ""
        given = b"" if key is None else _digest(key)
        # All are compared, so that the time says nothing of which one was nearly right.
        right = [hmac.compare_digest(given, digest) for digest in self._digests]
        if not any(right):
            raise Refused(
                401, "there is no valid API key", "send Authorization: Bearer KEY with one"
            )
        return given.hex()[:16]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def load_keys(options: ServeOptions) -> Keys:
    """Reads the keys, and refuses to let strangers in.

    Raises:
        UsageError: the file cannot be read or holds no good key; or there are none, and other
            machines could reach the server.
    """
    if options.api_key_file is None:
        if not options.on_loopback and not options.without_keys:
            raise UsageError(
                f"without API keys the server listens on loopback only, not on {options.host}",
                "give --api-key-file FILE, or --without-keys if everybody may use it",
            )
        return Keys([])
    if options.without_keys:
        raise UsageError(
            "--without-keys and --api-key-file contradict each other", "give one of them"
        )
    keys = [line for line in read_lines(options.api_key_file) if not line.startswith("#")]
    if not keys:
        raise UsageError(f"{printable(options.api_key_file)} holds no key", "write one a line")
    if any(len(key) < MIN_CHARACTERS or not key.isascii() or " " in key for key in keys):
        raise UsageError(
            f"{printable(options.api_key_file)} holds a key that can be guessed or not be sent",
            f"use {MIN_CHARACTERS} or more letters and digits: openssl rand -hex 32",
        )
    return Keys(keys)


def read_lines(path: str) -> list[str]:
    """The lines of a file of secrets, without blanks around them and without empty ones.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"cannot read {printable(path)}: {reason}", "check the path") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
