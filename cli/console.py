"""What goes to the terminal: errors as one line, tables on stdout, the rest on stderr."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from speechmeta.visible import visible_line

if TYPE_CHECKING:
    from rich.console import Console

TRACEBACK_VARIABLE = "SPEECHMETA_TRACEBACK"
"""Environment variable that shows where an error came from."""


def print_error(message: str, hint: str = "") -> None:
    """One line on stderr: what is wrong and what to do."""
    text = " ".join(message.split()).rstrip(".")
    print_note(f"{text}{f'; {hint}' if hint else ''}")


def describe_fault(error: Exception, doing: str = "") -> tuple[str, str]:
    """Message and hint for an error that nobody foresaw."""
    return (
        f"{doing or 'this'} failed with {type(error).__name__}: {error}",
        f"this is a fault of speechmeta; {TRACEBACK_VARIABLE}=1 shows where",
    )


_AS_PROGRAM = False


def run_as_program() -> None:
    """Notes that this process is the command's own, and nothing goes on after it."""
    global _AS_PROGRAM
    _AS_PROGRAM = True


def leave_at_once(code: int) -> None:
    """Ends the process, where it is the command's own, without what torch does at the end of one:
    on a busy machine that takes seconds, and who pressed Ctrl-C waits for it."""
    if _AS_PROGRAM:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def print_note(message: str) -> None:
    """One line on stderr for what a user should know."""
    # Names of files may hold anything: odd bytes and escape sequences are shown, not sent.
    print(f"speechmeta: {visible_line(message)}", file=sys.stderr, flush=True)


def out_console() -> Console:
    """The console for results in readable form."""
    from rich.console import Console

    # Without a terminal rich assumes 80 columns, too few for a transcript in a file.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(file=sys.stdout, width=width, soft_wrap=False, highlight=False)


def err_console() -> Console:
    """The console for all that is not a result."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False)


def speak_utf8() -> None:
    """Makes both outputs UTF-8 whatever the locale; what cannot be said is shown escaped.

    JSON is UTF-8 by its standard, and a name outside the locale must not end a run.
    """
    for stream in (sys.stdout, sys.stderr):
        # Streams that a test or a notebook put there have no encoding of their own.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


class Advance(Protocol):
    """Tells the progress bar that one more is done, or what is being worked on."""

    def __call__(self, description: str = "", step: int = 0) -> None: ...


@contextmanager
def progress(total: int, quiet: bool) -> Iterator[Advance]:
    """A progress bar on stderr; none when quiet or when stderr is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda description="", step=0: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)

        def advance(description: str = "", step: int = 0) -> None:
            if description:
                bar.update(task, description=visible_line(description))
            bar.advance(task, step)

        yield advance
