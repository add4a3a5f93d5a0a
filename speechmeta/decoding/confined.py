"""Work on forms that users bring, in a process with a limit of time and memory.

A JSON Schema or regular expression of a few bytes can ask for an automaton of any size, and
its compiler cannot be interrupted. So it runs in a child that is ended when it passes
`SECONDS` or `MEMORY_BYTES`; how deep a schema is nested is looked at before.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from speechmeta.errors import UsageError

SECONDS = 10.0
"""Of the processor's time."""

WAITS = 6
"""A child on a busy machine may take this many times `SECONDS` by the clock."""

MEMORY_BYTES = 1 << 30
NESTED_LEVELS = 64
"""Deepest nesting of a schema, brackets counted; a form of five objects in each other has 11."""

LONGEST = 1 << 20
"""Characters of a schema or regular expression."""

_WORKER = Path(__file__).with_name("confined_worker.py")
_SIMPLIFY = "simplify it: fewer levels, alternatives and large repetitions"


def confined(task: str, *arguments: Any) -> Any:
    """Does a task of `confined_worker` in a process of its own.

    Raises:
        UsageError: the form cannot be compiled, or not within the limits.
    """
    payload = pickle.dumps((task, arguments, MEMORY_BYTES, SECONDS))
    # -I: nothing is imported from the folder that the program was started in.
    command = [sys.executable, "-I", str(_WORKER)]
    try:
        done = subprocess.run(command, input=payload, capture_output=True, timeout=WAITS * SECONDS)
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"the output type takes more than {SECONDS:g} s", _SIMPLIFY) from error
    kind, value = ("memory", "")
    if done.returncode == 0 and done.stdout:
        kind, value = pickle.loads(done.stdout)
    if kind == "value":
        return value
    if kind == "error":
        raise UsageError(
            f"the output type cannot be compiled: {value}",
            "it has to be within reach of a regular expression; simplify it",
        )
    # Rust ends the process where memory is refused to it.
    raise UsageError(
        f"the output type takes more than {MEMORY_BYTES >> 30} GiB of memory or {SECONDS:g} s",
        _SIMPLIFY,
    )


def check_size(form: str) -> None:
    """Refuses forms that no reader would want, before anything looks at them.

    Raises:
        UsageError: it is too long, or its brackets are nested too deeply.
    """
    if len(form) > LONGEST:
        raise UsageError(
            f"the output type has {len(form)} characters", f"{LONGEST} are the most; {_SIMPLIFY}"
        )
    depth = deepest = 0
    for char in form:
        if char in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")]}":
            depth -= 1
    if deepest > NESTED_LEVELS:
        raise UsageError(
            f"the output type is nested {deepest} levels deep",
            f"{NESTED_LEVELS} are the most; {_SIMPLIFY}",
        )


__all__ = ["MEMORY_BYTES", "NESTED_LEVELS", "SECONDS", "check_size", "confined"]
