"""A folder that grows: run again whenever recordings have come and are no longer written to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

SETTLED_SECONDS = 10.0
"""A file that has not changed for so long is taken to be whole."""
LOOK_SECONDS = 5.0
"""Between two looks at the folder."""

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
        output: is not looked into, where it lies in the folder.
    """
    seen: Seen | None = None
    while True:
        now = settled_files(Path(root), Path(output), settled)
        if now != seen:
            seen = now
            run()
        sleep(LOOK_SECONDS)


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
