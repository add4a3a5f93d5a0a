"""Processes that may crash or hang without taking the run with them.

A pool hands tasks to processes one at a time, kills the one that passes its time limit,
starts another in its place, and reports either as an error of that task.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol

from speechmeta.errors import AudioError, SpeechMetaError

START_SECONDS = 300.0
"""A process that is not ready after this is taken for hung; importing torch can be slow."""
START_ATTEMPTS = 3
CLOSE_SECONDS = 5.0
"""An idle process that does not end in this time is killed."""


Ask = Callable[[Any], Any]


class WorkerCrash(AudioError):
    """The process that read a file died."""


class WorkerTimeout(AudioError):
    """Reading a file took longer than the time limit."""


class Task(Protocol):
    """What a worker runs; must be picklable, as it travels to the process once."""

    def start(self) -> Any:
        """Prepares the process, such as by loading a model; returns what `ready` is told."""
        ...

    def run(self, payload: Any, ask: Ask) -> Any:
        """Does one task; `ask` puts a question to the parent and waits for its answer."""
        ...


@dataclass(frozen=True)
class Done:
    """The end of one task: its value or its error.

    Attributes:
        key: as given to `submit`.
        error: a `SpeechMetaError` as it was raised, or any other exception as
            `(type name, message)`.
        lost: the process died or was killed.
    """

    key: Any
    value: Any = None
    error: SpeechMetaError | tuple[str, str] | None = None
    lost: bool = False


@dataclass(frozen=True)
class Question:
    """A task in progress asks something; it waits for `ProcessPool.answer`."""

    key: Any
    request: Any


class Pool(Protocol):
    """What a run needs of processes, or of a thread in their place."""

    def free(self) -> int: ...
    def submit(self, key: Any, payload: Any) -> None: ...
    def waitables(self) -> list[Any]: ...
    def deadline(self) -> float | None: ...
    def collect(self) -> list[Done | Question]: ...
    def close(self) -> None: ...


def _failure(error: BaseException) -> SpeechMetaError | tuple[str, str]:
    if isinstance(error, SpeechMetaError):
        return error
    return type(error).__name__, str(error) or "no message"


def _serve(task: Task, connection: Connection) -> None:
    """The life of a worker process: start, then one task after the other."""
    # Ctrl-C goes to the whole group; the parent decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()
    try:
        connection.send(("ready", task.start()))
    except Exception as error:
        connection.send(("failed", _failure(error)))
        return

    def ask(request: Any) -> Any:
        connection.send(("ask", request))
        value, error = connection.recv()
        if isinstance(error, SpeechMetaError):
            raise error
        if error is not None:
            raise RuntimeError(": ".join(error))
        return value

    while True:
        try:
            payload = connection.recv()
        except EOFError:
            return
        try:
            answer = ("value", task.run(payload, ask))
        except Exception as error:
            answer = ("error", _failure(error))
        connection.send(answer)


def _die_with(sentinel: int) -> None:
    # A parent killed with -9 says nothing; a worker deep in a decoder would live on.
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


@dataclass
class _Worker:
    process: Any
    connection: Connection
    started: float
    ready: bool = False
    key: Any = None
    busy: bool = False
    since: float = 0.0
    asked: float | None = None
    waiting: Any = field(default=None)


class ProcessPool:
    """Up to `size` processes that run one `Task`.

    Args:
        task: picklable.
        size: number of processes; they start when there is work for them.
        time_limit: seconds a task may take; None for no limit.
        on_ready: called with what `Task.start` returned, for every process.
    """

    def __init__(
        self,
        task: Task,
        size: int,
        time_limit: float | None = None,
        on_ready: Callable[[Any], None] | None = None,
    ) -> None:
        self._task = task
        self._size = size
        self._limit = time_limit
        self._on_ready = on_ready
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def free(self) -> int:
        """How many tasks may be submitted now."""
        return self._size - sum(worker.busy for worker in self._workers)

    def submit(self, key: Any, payload: Any) -> None:
        """Gives a task to an idle process, starting one if there is none."""
        idle = [worker for worker in self._workers if not worker.busy]
        # Prefer one that runs already.
        worker = next((w for w in idle if w.ready), None) or (idle[0] if idle else self._start())
        worker.key, worker.busy = key, True
        if worker.ready:
            self._send(worker, payload)
        else:
            worker.waiting = (payload,)

    def start_all(self) -> None:
        """Starts every process now, so that loading a model is not left to the first task."""
        while len(self._workers) < self._size:
            self._start()

    def waitables(self) -> list[Any]:
        """What `multiprocessing.connection.wait` is to wait for."""
        return [
            item
            for worker in self._workers
            for item in (worker.connection, worker.process.sentinel)
        ]

    def deadline(self) -> float | None:
        """The `time.monotonic` at which a time limit passes next."""
        return min(
            (at for at in map(self._deadline, self._workers) if at is not None), default=None
        )

    def _deadline(self, worker: _Worker) -> float | None:
        if not worker.ready:
            return worker.started + START_SECONDS
        if worker.busy and worker.asked is None and self._limit is not None:
            return worker.since + self._limit
        return None

    def collect(self) -> list[Done | Question]:
        """What ended or was asked since the last call; never waits.

        Raises:
            SpeechMetaError: `Task.start` failed, or processes die before they are ready.
        """
        done: list[Done | Question] = []
        for worker in list(self._workers):
            ended = self._look_at(worker)
            if ended is not None:
                done.append(ended)
        return done

    def answer(self, key: Any, done: Done) -> None:
        """Answers the question of the task `key`; its time limit stood still meanwhile."""
        for worker in self._workers:
            if worker.busy and worker.asked is not None and worker.key == key:
                worker.since += time.monotonic() - worker.asked
                worker.asked = None
                with contextlib.suppress(OSError):
                    worker.connection.send((done.value, done.error))

    def _look_at(self, worker: _Worker) -> Done | Question | None:
        alive = worker.process.is_alive()
        if worker.connection.poll():
            try:
                kind, value = worker.connection.recv()
            except (EOFError, OSError):
                return self._lost(worker)
            return self._heard(worker, kind, value)
        if not alive:
            return self._lost(worker)
        at = self._deadline(worker)
        if at is not None and time.monotonic() >= at:
            return self._too_late(worker)
        return None

    def _heard(self, worker: _Worker, kind: str, value: Any) -> Done | Question | None:
        if kind == "failed":
            self._end(worker)
            if isinstance(value, SpeechMetaError):
                raise value
            raise WorkerCrash(f"a worker could not start: {value[0]}: {value[1]}")
        if kind == "ready":
            worker.ready = True
            self._failed_starts = 0
            if self._on_ready is not None:
                self._on_ready(value)
            if worker.waiting is not None:
                (payload,) = worker.waiting
                worker.waiting = None
                self._send(worker, payload)
            return None
        if kind == "ask":
            worker.asked = time.monotonic()
            return Question(worker.key, value)
        key, worker.key, worker.busy = worker.key, None, False
        if kind == "value":
            return Done(key, value=value)
        return Done(key, error=value)

    def _lost(self, worker: _Worker) -> Done | None:
        worker.process.join()
        code = worker.process.exitcode
        self._end(worker)
        how = f"signal {_signal_name(-code)}" if code and code < 0 else f"exit code {code}"
        if not worker.ready:
            self._start_failed(worker, f"a worker died while starting ({how})")
            return None
        if not worker.busy:
            return None
        error = WorkerCrash(
            f"the process that worked on it died ({how})",
            "the file may be damaged, or memory ran out",
        )
        return Done(worker.key, error=error, lost=True)

    def _too_late(self, worker: _Worker) -> Done | None:
        self._end(worker)
        if not worker.ready:
            self._start_failed(worker, "a worker did not start in time")
            return None
        error = WorkerTimeout(
            f"no result after {self._limit:g} seconds", "a longer file may need a higher --timeout"
        )
        return Done(worker.key, error=error, lost=True)

    def _start_failed(self, worker: _Worker, message: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= START_ATTEMPTS:
            raise WorkerCrash(message, "memory may be too small for so many --workers")
        if worker.waiting is not None:
            (payload,) = worker.waiting
            self.submit(worker.key, payload)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(self._task, theirs), daemon=True, name="speechmeta-worker"
        )
        process.start()
        theirs.close()
        worker = _Worker(process, ours, time.monotonic())
        self._workers.append(worker)
        return worker

    def _send(self, worker: _Worker, payload: Any) -> None:
        worker.since = time.monotonic()
        # A process that died meanwhile is found by `collect`.
        with contextlib.suppress(OSError):
            worker.connection.send(payload)

    def _end(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.kill()
        worker.process.join()
        worker.connection.close()

    def close(self) -> None:
        """Ends all processes: idle ones by themselves, which lets them tidy up, others at once."""
        idle = [worker for worker in self._workers if worker.ready and not worker.busy]
        for worker in idle:
            # What it hears is the end of its orders.
            worker.connection.close()
        limit = time.monotonic() + CLOSE_SECONDS
        for worker in idle:
            worker.process.join(max(0.0, limit - time.monotonic()))
        for worker in list(self._workers):
            self._end(worker)


class ThreadPool:
    """One thread of this process in the place of a pool, for a model that lives here."""

    def __init__(self, task: Task, on_ready: Callable[[Any], None] | None = None) -> None:
        self._task = task
        self._on_ready = on_ready
        self._inbox: queue.SimpleQueue[tuple[Any, Any] | None] = queue.SimpleQueue()
        self._outbox: deque[tuple[str, Any, Any]] = deque()
        self._signal, self._wake = multiprocessing.Pipe(duplex=False)
        self._busy = False
        self._thread = threading.Thread(target=self._serve, name="speechmeta-model", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            self._answer("ready", None, self._task.start())
        except Exception as error:
            self._answer("failed", None, error)
            return
        while (item := self._inbox.get()) is not None:
            key, payload = item
            try:
                self._answer("value", key, self._task.run(payload, _nobody))
            except Exception as error:
                self._answer("error", key, _failure(error))

    def _answer(self, kind: str, key: Any, value: Any) -> None:
        self._outbox.append((kind, key, value))
        # The other end is closed when the run was stopped meanwhile.
        with contextlib.suppress(OSError):
            self._wake.send_bytes(b".")

    def free(self) -> int:
        return 0 if self._busy else 1

    def submit(self, key: Any, payload: Any) -> None:
        self._busy = True
        self._inbox.put((key, payload))

    def waitables(self) -> list[Any]:
        return [self._signal]

    def deadline(self) -> float | None:
        return None

    def collect(self) -> list[Done | Question]:
        """As `ProcessPool.collect`; an error of `Task.start` is raised as it was."""
        done: list[Done | Question] = []
        while self._signal.poll():
            self._signal.recv_bytes()
            kind, key, value = self._outbox.popleft()
            if kind == "failed":
                raise value
            if kind == "ready":
                if self._on_ready is not None:
                    self._on_ready(value)
                continue
            self._busy = False
            done.append(Done(key, value=value) if kind == "value" else Done(key, error=value))
        return done

    def close(self) -> None:
        """Lets the thread end after the task that it is at; it is not waited for for long."""
        self._inbox.put(None)
        self._thread.join(CLOSE_SECONDS)
        self._signal.close()
        self._wake.close()


def _nobody(request: Any) -> Any:
    raise NotImplementedError("a task in a thread has nobody to ask")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
