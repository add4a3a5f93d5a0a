"""Processes that may crash or hang without taking the run with them.

A pool hands tasks to processes one at a time, kills the one that passes its time limit,
starts another in its place, and reports either as an error of that task.

No library carries all that the tests ask of it. loky and `concurrent.futures` fail every task
that waits when one process dies, and cannot kill one process alone. Pebble can, but its pool
breaks when a process dies between two tasks or at its start, and loses the error of a start that
failed. None lets a task in progress ask something, with its time limit standing still meanwhile.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize
from typing import Any, Generic, Protocol, TypeVar

from speechmeta.errors import AudioError, SpeechMetaError

START_SECONDS = 300.0
"""A process that is not ready after this is taken for hung; importing torch can be slow."""
START_ATTEMPTS = 3
CLOSE_SECONDS = 5.0
"""An idle process that does not end in this time is killed."""

Ask = Callable[[Any], Any]
"""Puts a question to the parent and waits for its answer."""
Failure = SpeechMetaError | tuple[str, str]
"""A `SpeechMetaError` as it was raised, or any other exception as (type name, message)."""
Key = TypeVar("Key")


class WorkerCrash(AudioError):
    """The process that read a file died."""


class WorkerTimeout(AudioError):
    """Reading a file took longer than the time limit."""


class Task(Protocol):
    """What a worker runs; must be picklable where it travels to processes."""

    def start(self) -> Any:
        """Prepares the worker, such as by loading a model; returns what `on_ready` gets."""
        ...

    def run(self, payload: Any, ask: Ask) -> Any:
        """Does one task; value and payload are pickled."""
        ...


@dataclass(frozen=True)
class Done(Generic[Key]):
    """The end of one task: its value or its error.

    Attributes:
        key: as given to `submit`.
        lost: the process died or was killed.
    """

    key: Key
    value: Any = None
    error: Failure | None = None
    lost: bool = False


@dataclass(frozen=True)
class Question(Generic[Key]):
    """A task in progress asks something; it waits for `WorkerPool.answer`."""

    key: Key
    request: Any


def _outcome(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Failure | None]:
    try:
        return function(*arguments), None
    except SpeechMetaError as error:
        return None, error
    except Exception as error:
        return None, (type(error).__name__, str(error) or "no message")


def _serve(task: Task, connection: Connection) -> None:
    """The life of a worker: start, then one task after the other, until the parent hangs up."""

    def ask(request: object) -> Any:
        connection.send(("ask", request, None))
        value, error = connection.recv()
        if isinstance(error, SpeechMetaError):
            raise error
        if error is not None:
            raise RuntimeError(": ".join(error))
        return value

    with connection, contextlib.suppress(EOFError, OSError):
        value, error = _outcome(task.start)
        connection.send(("ready", value, error))
        while error is None:
            payload = connection.recv()
            connection.send(("done", *_outcome(task.run, payload, ask)))


_GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What a terminal or a supervisor sends to all processes of a service; the parent alone decides
what becomes of its workers, which may have to end what was accepted."""


def _serve_in_process(task: Task, connection: Connection) -> None:
    for number in _GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()
    _serve(task, connection)


@contextlib.contextmanager
def _signals_kept_from_children() -> Iterator[None]:
    """A process that starts here does not die of a signal before it can ignore it.

    Other threads of this process are still interrupted.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It would let the signals through again when it starts beside the first child.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill(workers: Sequence[_Worker[Any]]) -> None:
    for worker in list(workers):
        worker.process.kill()


def _die_with(sentinel: int) -> None:
    # A parent killed with -9 says nothing; a worker deep in a decoder would live on.
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


class _Thread(threading.Thread):
    """A thread where a process is expected: it ends after its task, and cannot be killed."""

    exitcode: int | None = None

    def kill(self) -> None:
        pass


@dataclass
class _Worker(Generic[Key]):
    """A worker and what it is at: `orders` are one (key, payload), or none."""

    process: SpawnProcess | _Thread
    connection: Connection
    started: float
    ready: bool = False
    orders: tuple[Key, Any] | None = None
    since: float = 0.0
    hurry: float | None = None
    asked: float | None = None

    def begin(self) -> None:
        """Hands on the orders that it has, once it is ready for them."""
        if self.ready and self.orders is not None:
            self.since = time.monotonic()
            self.send(self.orders[1])

    def send(self, message: object) -> None:
        # A process that died meanwhile is found by `collect`.
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def deadline(self, limit: float | None) -> float | None:
        if not self.ready:
            return self.started + START_SECONDS
        if self.orders is None:
            return None
        at = None if self.asked is not None or limit is None else self.since + limit
        return min((end for end in (at, self.hurry) if end is not None), default=None)


class WorkerPool(Generic[Key]):
    """Up to `size` processes that run one `Task`, or a thread of this process.

    Args:
        task: picklable, unless it is for a thread.
        size: number of processes; they start when there is work for them.
        time_limit: seconds a task may take; None for no limit. A thread has none.
        on_ready: called with what `Task.start` returned, for every process.
        threaded: one thread in the place of processes, for a model that lives here.
    """

    def __init__(
        self,
        task: Task,
        size: int,
        time_limit: float | None = None,
        on_ready: Callable[[Any], None] | None = None,
        threaded: bool = False,
    ) -> None:
        if threaded and (size != 1 or time_limit is not None):
            raise ValueError("a thread is one, and has no time limit")
        self._task = task
        self._size = size
        self._limit = time_limit
        self._on_ready = on_ready
        self._threaded = threaded
        self._workers: list[_Worker[Key]] = []
        self._failed_starts = 0
        # At its exit multiprocessing sends SIGTERM, which they ignore, and waits for them.
        Finalize(self, _kill, (self._workers,), exitpriority=0)

    def free(self) -> int:
        """How many tasks may be submitted now."""
        return self._size - sum(worker.orders is not None for worker in self._workers)

    def submit(self, key: Key, payload: object) -> None:
        """Gives a task to an idle worker, starting one if there is none."""
        idle = [worker for worker in self._workers if worker.orders is None]
        # Prefer one that runs already.
        worker = max(idle, key=lambda item: item.ready) if idle else self._start()
        worker.orders, worker.hurry = (key, payload), None
        worker.begin()

    def hurry(self, key: Key, seconds: float) -> None:
        """Leaves a task whose value nobody wants so many seconds more.

        Most tasks end sooner, which costs less than another process in the place of a killed one.
        """
        for worker in self._workers:
            if worker.orders is not None and worker.orders[0] == key:
                worker.hurry = time.monotonic() + seconds

    def start(self, count: int) -> None:
        """Starts so many workers now, so that loading a model is not left to the first task."""
        while len(self._workers) < count:
            self._start()

    def waitables(self) -> list[Any]:
        """What `multiprocessing.connection.wait` is to wait for."""
        ends = [w.process.sentinel for w in self._workers if not isinstance(w.process, _Thread)]
        return [*(worker.connection for worker in self._workers), *ends]

    def deadline(self) -> float | None:
        """The `time.monotonic` at which a time limit passes next."""
        times = (worker.deadline(self._limit) for worker in self._workers)
        return min((at for at in times if at is not None), default=None)

    def collect(self) -> list[Done[Key] | Question[Key]]:
        """What ended or was asked since the last call; never waits.

        Raises:
            SpeechMetaError: `Task.start` failed, or processes die before they are ready.
        """
        ended = [self._look_at(worker) for worker in list(self._workers)]
        return [item for item in ended if item is not None]

    def answer(self, key: Key, done: Done[Any]) -> None:
        """Answers the question of the task `key`; its time limit stood still meanwhile."""
        for worker in self._workers:
            if worker.asked is not None and worker.orders is not None and worker.orders[0] == key:
                worker.since += time.monotonic() - worker.asked
                worker.asked = None
                worker.send((done.value, done.error))

    def close(self) -> None:
        """Ends all workers: idle ones by themselves, which lets them tidy up, others at once."""
        idle = [worker for worker in self._workers if worker.ready and worker.orders is None]
        for worker in idle:
            worker.connection.close()
        limit = time.monotonic() + CLOSE_SECONDS
        for worker in idle:
            worker.process.join(max(0.0, limit - time.monotonic()))
        for worker in list(self._workers):
            self._end(worker)

    def _look_at(self, worker: _Worker[Key]) -> Done[Key] | Question[Key] | None:
        alive = worker.process.is_alive()
        if worker.connection.poll():
            try:
                kind, value, error = worker.connection.recv()
            except (EOFError, OSError):
                return self._lost(worker)
            return self._told(worker, kind, value, error)
        if not alive:
            return self._lost(worker)
        at = worker.deadline(self._limit)
        if at is not None and time.monotonic() >= at:
            return self._too_late(worker)
        return None

    def _told(
        self, worker: _Worker[Key], kind: str, value: object, error: Failure | None
    ) -> Done[Key] | Question[Key] | None:
        if kind == "ready":
            if error is not None:
                self._end(worker)
                raise _start_error(error)
            worker.ready = True
            self._failed_starts = 0
            if self._on_ready is not None:
                self._on_ready(value)
            worker.begin()
            return None
        if worker.orders is None:
            raise RuntimeError(f"a worker without orders says {kind}")
        key = worker.orders[0]
        if kind == "ask":
            worker.asked = time.monotonic()
            return Question(key, value)
        worker.orders = None
        return Done(key, value, error)

    def _lost(self, worker: _Worker[Key]) -> Done[Key] | None:
        worker.process.join()
        code = worker.process.exitcode
        how = f"signal {_signal_name(-code)}" if code and code < 0 else f"exit code {code}"
        error = WorkerCrash(
            f"the process that worked on it died ({how})",
            "the file may be damaged, or memory ran out",
        )
        return self._replaced(worker, error, f"a worker died while starting ({how})")

    def _too_late(self, worker: _Worker[Key]) -> Done[Key] | None:
        error = WorkerTimeout(
            f"no result after {self._limit or 0:g} seconds",
            "a longer file may need a higher --timeout",
        )
        return self._replaced(worker, error, "a worker did not start in time")

    def _replaced(
        self, worker: _Worker[Key], error: SpeechMetaError, at_start: str
    ) -> Done[Key] | None:
        """Ends a worker that is dead or late; its task has failed, or goes to another worker."""
        self._end(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= START_ATTEMPTS:
                raise WorkerCrash(at_start, "memory may be too small for so many --workers")
            if worker.orders is not None:
                self.submit(*worker.orders)
            return None
        if worker.orders is None:
            return None
        return Done(worker.orders[0], error=error, lost=True)

    def _start(self) -> _Worker[Key]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process: SpawnProcess | _Thread
        if self._threaded:
            process = _Thread(target=_serve, args=(self._task, theirs), daemon=True)
            process.start()
        else:
            process = context.Process(
                target=_serve_in_process, args=(self._task, theirs), daemon=True
            )
            with _signals_kept_from_children():
                process.start()
            theirs.close()
        worker: _Worker[Key] = _Worker(process, ours, time.monotonic())
        self._workers.append(worker)
        return worker

    def _end(self, worker: _Worker[Key]) -> None:
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.kill()
        worker.process.join(CLOSE_SECONDS)


def _start_error(error: Failure) -> SpeechMetaError:
    if isinstance(error, SpeechMetaError):
        return error
    return WorkerCrash(f"a worker could not start: {error[0]}: {error[1]}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
