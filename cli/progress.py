"""How far an analysis is: one line that stays up to date on a terminal and goes when it ends; a
line every 30 seconds in a pipe or a log.

    with watching(quiet) as watch:
        watch.begin("call.wav", number=1, of=3)
        watch.call(progress)                # a CallProgress
        watch.print(lambda console: ...)    # results, above the line
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from speechmeta.visible import visible_line

from .console import out_console, print_note

if TYPE_CHECKING:
    from rich.console import Console

    from speechmeta.pipeline.progress import CallProgress

LOG_SECONDS = 30.0
"""Between two lines where there is no terminal."""

_STAGES = {
    "reading": "reading",
    "listening": "finding turns",
    "speakers": "telling speakers apart",
    "turns": "turns",
}


class Watch(Protocol):
    """Where progress is shown."""

    def begin(self, name: str, number: int, of: int) -> None:
        """A recording is begun."""

    def call(self, progress: CallProgress) -> None:
        """How far it is."""

    def print(self, show: Callable[[Console], None]) -> None:
        """Results for stdout, clear of the line."""


@contextmanager
def watching(quiet: bool) -> Iterator[Watch]:
    """Tells the progress of `analyze` on stderr, from before the model is loaded."""
    if quiet:
        yield _Silent()
        return
    if not sys.stderr.isatty():
        with _Log() as log:
            yield log
        return
    with _Line() as line:
        yield line


class _Silent:
    def begin(self, name: str, number: int, of: int) -> None: ...

    def call(self, progress: CallProgress) -> None: ...

    def print(self, show: Callable[[Console], None]) -> None:
        show(out_console())


class _State(_Silent):
    """What is known of the recording that is analysed."""

    def __init__(self) -> None:
        self._began = self._told = time.monotonic()
        self._name = ""
        self._now: CallProgress | None = None

    def begin(self, name: str, number: int, of: int) -> None:
        self._name = visible_line(name) if of == 1 else f"{visible_line(name)} ({number} of {of})"
        self._began, self._now = time.monotonic(), None

    def call(self, progress: CallProgress) -> None:
        self._now, self._told = progress, time.monotonic()

    def text(self) -> str:
        """`call.wav: turns 3:20 of 20:00, 14.0x real time, 1:12 left`."""
        passed = time.monotonic() - self._began
        now = self._now
        if now is None:
            what = "loading the model" if not self._name else f"{self._name}: opening"
            return f"{what}, {passed:.0f} s"
        parts = [f"{self._name}: {_STAGES[now.stage]}"]
        if now.duration is None:
            parts[0] += f" {clock(now.seconds)}"
        else:
            parts[0] += f" {clock(now.seconds)} of {clock(now.duration)}"
            # As it was when it was told: the rate does not sink while the next turns are decoded.
            took = self._told - self._began
            if now.share > 0 and took > 0:
                parts.append(f"{now.share * now.duration / took:.1f}x real time")
                parts.append(f"{clock(took / now.share - passed)} left")
        return ", ".join(parts)


class _Log(_State):
    """A line now and then, from a thread of its own: a stage may say nothing for long."""

    def __enter__(self) -> _Log:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _tell(self) -> None:
        while not self._ended.wait(LOG_SECONDS):
            print_note(self.text())


class _Line(_State):
    """rich's live line; what is printed meanwhile stands above it."""

    def __enter__(self) -> _Line:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        state = self

        class Text(TextColumn):
            def render(self, task: object) -> object:  # type: ignore[override]
                from rich.text import Text

                return Text(state.text(), no_wrap=True, overflow="ellipsis")

        # Results go to stdout; where that is the same terminal, rich keeps the two apart.
        self._shared = sys.stdout.isatty()
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._bar = Progress(
            SpinnerColumn("line"),
            Text(""),
            BarColumn(bar_width=16),
            console=self._console,
            transient=True,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=True,
        )
        self._task = self._bar.add_task("", total=1.0)
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def call(self, progress: CallProgress) -> None:
        super().call(progress)
        self._bar.update(self._task, completed=progress.share)

    def begin(self, name: str, number: int, of: int) -> None:
        super().begin(name, number, of)
        self._bar.reset(self._task, total=1.0)

    def print(self, show: Callable[[Console], None]) -> None:
        if not self._shared:
            show(out_console())
            return
        self._bar.stop()
        try:
            show(out_console())
            sys.stdout.flush()
        finally:
            self._bar.start()


def clock(seconds: float) -> str:
    """`m:ss`, or `h:mm:ss` from an hour on."""
    minutes, second = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"


__all__ = ["LOG_SECONDS", "Watch", "clock", "watching"]
