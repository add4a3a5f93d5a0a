"""The one place where errors of FFmpeg, of file objects and of the system become ours.

Damaged files make PyAV raise what its parts raise: FFmpegError, OSError from a seek that makes
no sense, ValueError, IndexError, MemoryError, EOFError. For who analyses a folder they all say
the same: this recording cannot be used.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from speechmeta.errors import AudioError, SpeechMetaError

DAMAGED_HINT = "it is damaged, or not what it seems; play it, or export it again"


@contextmanager
def audio_errors(name: str) -> Iterator[None]:
    """Turns any error that reading a recording raises into an `AudioError`.

    Args:
        name: of the recording, for the message.
    """
    try:
        yield
    except (SpeechMetaError, StopIteration):
        raise
    except MemoryError as error:
        raise AudioError(
            f"{name} needs more memory than there is", "it may be damaged; or free some memory"
        ) from error
    except Exception as error:
        said = next(iter(str(error).strip().splitlines()), "")
        kind = type(error).__name__
        raise AudioError(
            f"{name} cannot be read: {f'{kind}: {said}' if said else kind}", DAMAGED_HINT
        ) from error


def limit_allocations(megabytes: int) -> None:
    """Sets the largest piece of memory that FFmpeg takes at once, for the whole process.

    A header of a kilobyte may claim that a gigabyte of text follows, and FFmpeg takes the room
    before it looks.
    """
    library = _avutil()
    if library is not None:
        library.av_max_alloc(ctypes.c_size_t(megabytes << 20))


@cache
def _avutil() -> Any:
    """FFmpeg's base library as PyAV has loaded it; None where its wheel is laid out otherwise."""
    import av

    package = Path(av.__file__).parent
    places = {
        "linux": (package.parent / "av.libs", "libavutil*.so*"),
        "darwin": (package / ".dylibs", "libavutil*.dylib"),
        "win32": (package.parent / "av.libs", "avutil*.dll"),
    }
    folder, pattern = places.get(sys.platform, (package, "libavutil*"))
    found = sorted(folder.glob(pattern))
    return ctypes.CDLL(str(found[0])) if len(found) == 1 else None
