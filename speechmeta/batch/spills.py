"""Files for the turns of calls that wait for the model: callers' voices, so without a name.

On Linux a file loses its name as soon as it is open; workers reach it through `/proc`, and the
system frees it when this process ends in whatever way. Elsewhere the files lie in a folder
that only their owner may enter, and the next run removes what a killed one left.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from speechmeta.writers.files import output_error


class Spills:
    """The spill files of one engine.

    Args:
        folder: on a local and roomy disk; private.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handles: dict[int, int] = {}

    def place(self, call: int) -> str:
        """A path under which every process of this user can open the file of a call.

        Raises:
            OutputError: there is no room for another file.
        """
        path = self._folder / f"{call}.f32"
        if not sys.platform.startswith("linux"):
            return str(path)
        if call not in self._handles:
            try:
                self._handles[call] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
                os.unlink(path)
            except OSError as error:
                raise output_error(error, path) from error
        return f"/proc/{os.getpid()}/fd/{self._handles[call]}"

    def release(self, call: int) -> None:
        """Frees the file of a call; one that was never placed is not an error."""
        handle = self._handles.pop(call, None)
        if handle is not None:
            os.close(handle)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._folder / f"{call}.f32")

    def close(self) -> None:
        """Frees all of them."""
        for call in list(self._handles):
            self.release(call)
