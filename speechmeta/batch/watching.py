"""A folder that grows: run again whenever recordings have come and are no longer written to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from speechmeta.audio.remote import is_address
from speechmeta.batch.remote_folder import find_remote_audio, folder_address

SETTLED_SECONDS = 10.0
"""A file that has not changed for so long is taken to be whole."""
LOOK_SECONDS = 5.0
"""Between two looks at the folder."""
REMOTE_LOOK_SECONDS = 60.0
"""Between two looks at an address: each is a request, or a thousand, that somebody pays for."""

Seen = frozenset[tuple[str, int, int]]


def watch(
    root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    run: Callable[[], None],
    *,
    settled: float = SETTLED_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Calls `run` once, and again each time that the folder holds other settled files than at the
    last time. Ends by whatever `run` or `sleep` raises, such as KeyboardInterrupt.

    Args:
        root: a folder or an address.
        output: is not looked into, where it lies in the folder.
    """
    seen: Seen | None = None
    address = folder_address(root) if isinstance(root, str) and is_address(root) else None
    while True:
        now = listed_files(address) if address else settled_files(Path(root), Path(output), settled)
        if now != seen:
            seen = now
            run()
        sleep(REMOTE_LOOK_SECONDS if address else LOOK_SECONDS)


def listed_files(address: str) -> Seen:
    """Path and size of every file below an address.

    Raises:
        UsageError, AudioError: it cannot be listed.
    """
    files = find_remote_audio(address, strict=True)
    return frozenset((os.fsdecode(file.relative), file.size, 0) for file in files)


def settled_files(root: Path, output: Path, settled: float) -> Seen:
    """Path, size and time of change of every file that is no longer written to."""
    found = set()
    kept_out = output.resolve()
    for base, folders, names in os.walk(root):
        folders[:] = [name for name in folders if Path(base, name).resolve() != kept_out]
        for name in names:
            path = os.path.join(base, name)
            try:
                status = os.stat(path)
            except OSError:  # it went meanwhile, or is a link to nowhere
                continue
            if is_settled(status.st_mtime, settled):
                found.add((path, status.st_size, status.st_mtime_ns))
    return frozenset(found)


def is_settled(changed: float, seconds: float) -> bool:
    """Whether a file that changed at this time (seconds since 1970) is whole by now."""
    return time.time() - changed >= seconds


__all__ = ["LOOK_SECONDS", "SETTLED_SECONDS", "is_settled", "settled_files", "watch"]
