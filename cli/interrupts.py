"""Ctrl-C that is not lost.

Python's own handler raises wherever the program stands. Where that is a function that a library in
C has called (FFmpeg reading a file, a weak reference that ends), the library drops the exception
and the work goes on.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Self


class Interrupts:
    """While entered, notes Ctrl-C as well as raising it; `check` raises it again.

    Where somebody else handles the signal, or ignores it, or in another thread than the main
    one, nothing is changed.
    """

    def __init__(self) -> None:
        self._pressed = self._ours = False

    def __enter__(self) -> Self:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            signal.signal(signal.SIGINT, self._heard)
            self._ours = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self._pressed = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raises KeyboardInterrupt if Ctrl-C was pressed at any time since the beginning."""
        if self._pressed:
            raise KeyboardInterrupt


__all__ = ["Interrupts"]
