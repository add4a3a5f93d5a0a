"""Recordings at an address: fetched once into a file that has no name, and checked.

`s3://bucket/call.wav`, `gs://`, `az://`, `https://` and the like, through fsspec; credentials are
taken from where its libraries look for them.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import tempfile
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

from speechmeta.errors import AudioError, MissingExtraError, SpeechMetaError

PROTOCOLS = frozenset({"http", "https", "s3", "gs", "gcs", "az", "abfs", "memory"})
"""Addresses that are fetched; others, such as `file://` or fsspec's chains, are refused."""

MAX_BYTES = 16 << 30
"""A server that says nothing of a file's size could send for ever."""

_CHUNK = 1 << 20


def is_remote(path: str) -> bool:
    """Whether this is an address that can be fetched."""
    scheme, found, _ = path.partition("://")
    return bool(found) and scheme.lower() in PROTOCOLS


def is_address(path: object) -> bool:
    """Whether what a user named is fetched, and not a file or folder here of such a name."""
    return isinstance(path, str) and is_remote(path) and not os.path.exists(path)


def shown(address: str) -> str:
    """The address without what opens it: user, password, and the signature in its query."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https"):
        return address
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def fetched(address: str) -> IO[bytes]:
    """The file at an address, at its beginning; whoever closes it deletes it.

    Raises:
        AudioError: it is not there, cannot be fetched, or came incomplete or damaged.
        MissingExtraError: a library for the protocol is not installed.
    """
    name = shown(address)
    if "::" in address:
        raise AudioError(f"{name} is a chain of addresses", "give one address")
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the recording is used
    try:
        import fsspec

        system, inner = fsspec.core.url_to_fs(address)
        about: dict[str, Any] = system.info(inner)
        digest = hashlib.md5(usedforsecurity=False)
        size = 0
        with system.open(inner, "rb") as file:
            while piece := file.read(_CHUNK):
                size += len(piece)
                if size > MAX_BYTES:
                    raise AudioError(f"{name} is larger than {MAX_BYTES >> 30} GB", "cut it")
                digest.update(piece)
                copy.write(piece)
        _check(name, about, size, digest.digest())
        copy.seek(0)
    except BaseException as error:
        copy.close()
        if isinstance(error, SpeechMetaError) or not isinstance(error, Exception):
            raise
        raise explained(name, error) from error
    return copy


def _check(name: str, about: dict[str, Any], size: int, digest: bytes) -> None:
    """Compares what came with what the store says of it: the size, and an MD5 where it has one."""
    stated = about.get("size")
    if stated is not None and stated != size:
        raise AudioError(
            f"{name} came incomplete: {size} of {stated} bytes", "try again; is it being written?"
        )
    wanted = _stated_digest(about)
    if wanted is not None and wanted != digest:
        raise AudioError(f"{name} came damaged: its checksum is another", "try again")


def _stated_digest(about: dict[str, Any]) -> bytes | None:
    """The MD5 that a store states: S3 as the ETag of what was sent in one piece and not encrypted
    by a key of KMS, Google as base64."""
    google = about.get("md5Hash")
    if isinstance(google, str):
        return base64.b64decode(google)
    tag = str(about.get("ETag", "")).strip('"')
    encrypted = about.get("ServerSideEncryption") not in (None, "AES256")
    if re.fullmatch(r"[0-9a-f]{32}", tag) and "StorageClass" in about and not encrypted:
        return bytes.fromhex(tag)
    return None


def _behind(error: FileNotFoundError) -> Exception:
    """What was the matter: fsspec says of every web server that a file is not found, also if it is
    out of reach or answers with an error."""
    cause = error.__cause__
    status = getattr(cause, "status", None)
    if status in (401, 403):
        return PermissionError(status)
    failed = isinstance(cause, OSError) or (isinstance(status, int) and status not in (404, 410))
    return cause if failed and isinstance(cause, Exception) else error


def explained(name: str, error: Exception) -> SpeechMetaError:
    """What went wrong at an address, in our words; libraries for stores raise all kinds of errors.

    Args:
        name: the address as it may be shown.
    """
    if isinstance(error, ImportError):
        return MissingExtraError(
            f"{name.partition('://')[0]}:// needs a library that is not installed",
            "pip install 'speechmeta[remote]'",
        )
    if isinstance(error, FileNotFoundError):
        error = _behind(error)
    if isinstance(error, FileNotFoundError):
        return AudioError(f"{name} does not exist", "check the address")
    if isinstance(error, IsADirectoryError):
        return AudioError(f"{name} is a folder", "name the files in it")
    if isinstance(error, PermissionError):
        return AudioError(f"{name} may not be read", "check the credentials")
    return AudioError(
        f"{name} cannot be fetched: {type(error).__name__}", "check the address and the network"
    )
