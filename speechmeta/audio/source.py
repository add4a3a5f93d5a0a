"""The bytes of a recording: opened once, read by any number of readers, as they then were.

A pipe, a FIFO or a terminal can be read only once, so it is copied to a temporary file that
has no name. A file that is still being written to ends where it ended when it was opened.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any, Protocol

from speechmeta.audio.remote import fetched, is_address, shown
from speechmeta.errors import AudioError

STDIN = "-"
"""The name under which standard input is a recording."""

STDIN_NAMES = {STDIN, "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"}
_ENDLESS = {"/dev/zero", "/dev/random", "/dev/urandom", "/dev/full"}
_SEEK_REFUSED = -22  # EINVAL, as FFmpeg wants it: an exception would end the reading


class Bytes(Protocol):
    """Something of known size that is read at any place."""

    size: int

    def read_at(self, offset: int, count: int) -> bytes: ...


class View:
    """A file object over `Bytes` with a position of its own.

    Args:
        content: what is read.
        name: FFmpeg guesses headerless formats by its ending.
    """

    def __init__(self, content: Bytes, name: str) -> None:
        self.name = name
        self._content = content
        self._position = 0

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._content.size - self._position)
        data = self._content.read_at(self._position, left if count < 0 else min(count, left))
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._content.size}
        if whence not in base or base[whence] + offset < 0:
            return _SEEK_REFUSED
        self._position = base[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position


class MediaFile:
    """An open recording.

    Attributes:
        name: for messages. path: as given; None for bytes and nameless streams.
        size: bytes when it was opened.
    """

    def __init__(self, file: IO[bytes], name: str, path: str | None, owned: bool) -> None:
        self.name, self.path = name, path
        self._file, self._owned = file, owned
        self._lock = threading.Lock()
        self._start = file.tell()
        self.size = self._measure()
        if self.size <= 0:
            self.close()
            raise AudioError(f"{name} is empty (0 bytes)", "check how the file was made or copied")

    def read_at(self, offset: int, count: int) -> bytes:
        """At most `count` bytes; fewer at the end."""
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        with self._lock:
            self._file.seek(self._start + offset)
            return self._file.read(count)

    def has_grown(self) -> bool:
        """Whether the file is longer than when it was opened."""
        try:
            return self._measure() > self.size
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        if self._owned:
            self._file.close()
        elif not self._file.closed:
            self._file.seek(self._start)

    def _measure(self) -> int:
        with self._lock:
            return self._file.seek(0, os.SEEK_END) - self._start


def open_media(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes],
) -> MediaFile:
    """Opens a path, `-` for standard input, the bytes of a file, or a binary file object.

    A file object is read from where it stands, and stands there again when closed.

    Raises:
        AudioError: nothing there, not readable, empty, or opened as text.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return MediaFile(io.BytesIO(source), "the given data", None, owned=True)
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        if is_address(path):
            name = shown(path)
            return MediaFile(fetched(path), name, name, owned=True)
        file = _open_path(path)
        name = "standard input" if path in STDIN_NAMES else path
        return MediaFile(_seekable(file, name, owned=True), name, path, owned=True)
    given = getattr(source, "name", None)
    named = given if isinstance(given, str) else None
    name = named or "the given file object"
    if isinstance(source, io.TextIOBase):
        raise AudioError(f"{name} is opened as text", 'open it in binary mode, "rb"')
    file = _seekable(source, name, owned=False)
    return MediaFile(file, name, named, owned=file is not source)


def _seekable(file: IO[bytes], name: str, owned: bool) -> IO[bytes]:
    """The file, or an unnamed copy of what can be read only once."""
    try:
        can_seek = file.seekable()
    except AttributeError:
        can_seek = hasattr(file, "seek") and hasattr(file, "tell")
    if can_seek:
        return file
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the recording is used
    try:
        shutil.copyfileobj(file, copy, 1 << 20)
    except OSError as error:
        copy.close()
        raise AudioError(
            f"{name} cannot be read to its end: {error.strerror or error}",
            "streams are first copied to the folder for temporary files (TMPDIR); is it full?",
        ) from error
    finally:
        if owned:
            file.close()
    copy.seek(0)
    return copy


def _open_path(path: str) -> IO[bytes]:
    if not path:
        raise AudioError("the name of the recording is empty", "give its path")
    if path in STDIN_NAMES:
        return _open_stdin()
    if "://" in path and not Path(path).exists():
        raise AudioError(
            f"{path} is an address of a kind that is not fetched",
            "download it first; s3://, gs://, az://, http:// and https:// are fetched",
        )
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed with the recording
    except FileNotFoundError as error:
        raise AudioError(f"{path} does not exist", "check the path") from error
    except IsADirectoryError as error:
        raise AudioError(
            f"{path} is a folder", "name the files in it, or run: speechmeta batch"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioError(f"{path} cannot be read: {reason}", "check its permissions") from error
    if os.path.realpath(path) in _ENDLESS:
        file.close()
        raise AudioError(f"{path} is a device without an end", "give a recording")
    return file


def _open_stdin() -> IO[bytes]:
    standard: Any = sys.stdin
    if standard is None:
        raise AudioError("standard input is closed", "pipe a recording into the command")
    stream: IO[bytes] = getattr(standard, "buffer", standard)
    if stream.isatty():
        raise AudioError(
            "standard input is a terminal, not a recording",
            "pipe one into the command: cat call.wav | speechmeta analyze -",
        )
    try:
        # A descriptor of its own, so that closing it leaves the program's own alone.
        return open(os.dup(stream.fileno()), "rb")
    except (OSError, ValueError, AttributeError):
        return stream  # replaced by a test or a notebook
