"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from speechmeta.errors import OutputError

TEMPORARY_PREFIX = ".speechmeta-"
TEMPORARY_SUFFIX = ".tmp"

_HINTS = {
    errno.ENOSPC: "the disk is full: free some space and run again",
    errno.EDQUOT: "the disk quota is used up: free some space and run again",
    errno.EACCES: "check the permissions of the output folder",
    errno.EROFS: "the output folder is on a read-only disk",
    errno.ENAMETOOLONG: "choose a shorter output path",
    errno.ENOENT: "create the folder first",
    errno.ENOTDIR: "a part of the output path is a file: choose another path",
}


def output_error(error: OSError, path: str | os.PathLike[str]) -> OutputError:
    """Turns what the system said into an `OutputError` that names the file and a way out."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = _HINTS.get(error.errno or 0, "")
    return OutputError(f"cannot write {printable(path)}: {reason}", hint)


def printable(path: str | bytes | os.PathLike[str]) -> str:
    """A path as valid Unicode: bytes that are not UTF-8 become `\\xNN`.

    File names are bytes; JSON, Parquet and terminals take none that are not UTF-8.
    """
    try:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        # Half a character that stands for no byte, as JSON can have it.
        return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """Opens a binary file that takes its name only when it is complete and on the disk.

    The bytes go to a temporary name in the same folder, are synced, and the file is
    then renamed, so that a reader never sees half a file, whenever the process dies.

    Args:
        path: the final name; its folder must exist.
        overwrite: replace a file of that name; otherwise an existing one is an error,
            also when it appears while this one is being written.

    Raises:
        OutputError: the file exists, or the system refuses (a full disk, permissions).
    """
    target = Path(path)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    if not overwrite and os.path.lexists(target):
        raise _exists(target)
    try:
        # "xb": with 64 random bits a clash is an attack, not an accident.
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, target)
        else:
            _rename_new(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise output_error(error, target) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def remove_temporary(folder: str | os.PathLike[str]) -> int:
    """Deletes what a killed process left under temporary names, at any depth; returns how many."""
    removed = 0
    for base, _, names in os.walk(folder):
        for name in names:
            if name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(base, name))
                    removed += 1
    return removed


def _exists(target: Path) -> OutputError:
    return OutputError(f"{printable(target)} exists", "remove it, or allow overwriting")


def _rename_new(temporary: Path, target: Path) -> None:
    # A hard link fails where the name is taken; a rename would replace it in silence.
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise _exists(target) from None
    except OSError:
        # Some file systems have no hard links (exFAT, some network shares).
        if os.path.lexists(target):
            raise _exists(target) from None
        os.rename(temporary, target)


def _sync_folder(folder: Path) -> None:
    # The new name itself must be on the disk too; Windows cannot open folders.
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)
