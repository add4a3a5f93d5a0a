"""How a command starts: without needless searches for garbage, without threads that spin."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


def let_threads_sleep() -> None:
    """Has threads of torch that wait for work sleep soon; what the user set stays.

    By default they spin for milliseconds. Where other work shares the processors, that burns
    more time than the model takes. Has to come before torch is imported.
    """
    if "OMP_WAIT_POLICY" in os.environ:
        return
    # By the OpenMP runtime: GNU's, then LLVM's and Intel's. A short spin bridges the gap between
    # two products, and costs nobody much.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("KMP_BLOCKTIME", "1")


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """For imports and the loading of a model: nearly all that is made there stays.

    Python would look through it again and again, a fifth of the whole start. What is there at
    the end is not looked at later either.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


__all__ = ["let_threads_sleep", "without_garbage_collection"]
