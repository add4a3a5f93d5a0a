"""The engine of folder runs on one machine.

Files are prepared in processes of their own, the turns of many calls fill one model batch,
and a call ends when its last turn is decoded. What is held at any time is bounded by
`QUEUED_SECONDS`, whatever the number of files or their length.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

from speechmeta.batch.job import (
    Asked,
    Job,
    ModelFacts,
    ModelOrder,
    ModelSource,
    ModelTask,
    Prepared,
    PrepareTask,
    SpilledTurn,
)
from speechmeta.batch.journal import Entry
from speechmeta.batch.scheduling import TurnQueue
from speechmeta.batch.spills import Spills
from speechmeta.batch.workers import Done, Failure, Question, WorkerPool
from speechmeta.errors import DecodingError, ModelError, OutputError, SpeechMetaError
from speechmeta.schema import CallReport

QUEUED_SECONDS = 1800.0
"""No further file is prepared while this many seconds of turns wait for the model."""
OPEN_CALLS = 256
MAX_LOST_BATCHES = 5
"""So many model processes may die one after the other before the run gives up."""


@dataclass(frozen=True)
class Outcome:
    """What became of one file: a report, or an error (as in `Done`)."""

    entry: Entry
    report: CallReport | None = None
    error: Failure | None = None


@dataclass(frozen=True)
class EngineOptions:
    """How a run uses the machine.

    Attributes:
        workers: processes that decode audio and find turns, for each model.
        timeout: seconds that preparing one file may take.
        batch_size: turns that are decoded together; the turns of many calls wait for the model,
            so that there are more than in one call.
        model_processes: 0 keeps the model in this process; N loads it in N others, each
            with an equal share of the processor cores.
        actors: models of a Ray cluster; 0 for one on each GPU, or for every second core.
    """

    workers: int = 1
    timeout: float = 600.0
    batch_size: int = 32
    model_processes: int = 0
    actors: int = 0


@dataclass
class _Call:
    entry: Entry
    prepared: Prepared
    records: list[Any] = field(default_factory=list)
    remaining: int = 0


class LocalEngine:
    """Runs a job over files with worker processes.

    Args:
        job: what to do with a file.
        source: the model.
        spill_folder: where turns wait for the model; local and roomy.
    """

    def __init__(
        self, job: Job, source: ModelSource, options: EngineOptions, spill_folder: Path
    ) -> None:
        self._job = job
        self._options = options
        self._spills = Spills(spill_folder)
        self._facts: ModelFacts | None = None
        self._calls: dict[int, _Call] = {}
        self._turns = TurnQueue()
        self._single: deque[SpilledTurn] = deque()
        self._complete: deque[_Call] = deque()
        self._questions: deque[Asked] = deque()
        self._lost = 0
        self._preparing: dict[int, Entry] = {}
        self._postponed: deque[Entry] = deque()
        self._tight = False
        self._prepare: WorkerPool[int] = WorkerPool(
            PrepareTask(job), options.workers, options.timeout
        )
        self._model = self._model_pool(source)

    def _model_pool(self, source: ModelSource) -> WorkerPool[ModelOrder]:
        count = self._options.model_processes
        threads = max(1, (os.cpu_count() or 1) // count) if count else None
        pool: WorkerPool[ModelOrder] = WorkerPool(
            ModelTask(source, threads), count or 1, on_ready=self._on_facts, threaded=not count
        )
        pool.start_all()
        return pool

    def _on_facts(self, facts: ModelFacts) -> None:
        self._facts = facts

    def run(self, entries: Iterator[Entry], root: bytes) -> Iterator[Outcome]:
        """Yields the outcome of every file as it ends, in no particular order.

        Args:
            entries: files, their paths relative to `root`; taken one by one as there is room.

        Raises:
            ModelError: the model cannot be loaded, or its processes keep dying.
            OutputError: there is no room for the turns' waveforms.
        """
        entry = next(entries, None)
        while entry is not None or self._preparing or self._calls:
            while entry is not None and self._room():
                self._preparing[entry.id] = entry
                path = os.path.join(root, entry.relative)
                self._prepare.submit(entry.id, (path, self._spills.place(entry.id)))
                entry = self._postponed.popleft() if self._postponed else next(entries, None)
            self._feed_model()
            self._wait()
            for done in self._prepare.collect():
                if isinstance(done, Question):
                    self._questions.append(Asked(done.key, done.request))
                    continue
                failed = self._prepared(self._preparing.pop(done.key), done)
                if failed is not None:
                    yield failed
            if entry is None and self._postponed:
                entry = self._postponed.popleft()
            for answer in self._model.collect():
                if isinstance(answer, Done):
                    self._answered_or_decoded(answer)
            # Not before the model is known: its name stands in the report.
            while self._complete and self._facts is not None:
                yield self._assembled(self._complete.popleft(), self._facts)

    def close(self) -> None:
        """Ends all workers; whatever was being done is dropped."""
        self._prepare.close()
        self._model.close()
        for call in [*self._calls, *self._preparing]:
            self._spills.release(call)
        self._spills.close()

    def _room(self) -> bool:
        return (
            self._prepare.free() > 0
            and not (self._tight and (self._preparing or self._calls))
            and self._turns.seconds < QUEUED_SECONDS
            and len(self._calls) < OPEN_CALLS
        )

    def _feed_model(self) -> None:
        while self._model.free() > 0:
            if self._questions:
                # A file in preparation waits for it.
                asked = self._questions.popleft()
                self._model.submit(asked, asked)
                continue
            # After a failed batch its turns go one by one, so that one bad turn is found.
            batch = (
                [self._single.popleft()]
                if self._single
                else self._turns.take(self._options.batch_size)
            )
            if not batch:
                return
            self._model.submit(batch, batch)

    def _wait(self) -> None:
        if self._complete and self._facts is not None:
            return
        deadlines = [at for at in (self._prepare.deadline(), self._model.deadline()) if at]
        timeout = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        connection.wait([*self._prepare.waitables(), *self._model.waitables()], timeout)

    def _prepared(self, entry: Entry, done: Done[int]) -> Outcome | None:
        if done.error is not None:
            self._spills.release(entry.id)
            if isinstance(done.error, OutputError):
                # The disk is full, which is not the fault of this file. From here on files go
                # one by one; only when one alone finds no room is the run over.
                if self._tight and not self._calls:
                    raise done.error
                self._tight = True
                self._postponed.append(entry)
                return None
            return Outcome(entry, error=done.error)
        prepared: Prepared = done.value
        spill = self._spills.place(entry.id)
        count = len(prepared.lengths)
        call = _Call(entry, prepared, [None] * count, count)
        self._calls[entry.id] = call
        offset = 0
        asked = zip(prepared.lengths, prepared.asked, strict=True)
        for index, (length, wanted) in enumerate(asked):
            self._turns.add(SpilledTurn(entry.id, index, spill, offset, length, wanted))
            offset += length
        if not count:
            self._complete.append(call)
        return None

    def _answered_or_decoded(self, done: Done[ModelOrder]) -> None:
        order = done.key
        if not isinstance(order, Asked):
            self._decoded(order, done)
        elif done.lost:
            self._count_lost()
            self._questions.append(order)
        else:
            self._prepare.answer(order.call, done)

    def _count_lost(self) -> None:
        self._lost += 1
        if self._lost > MAX_LOST_BATCHES:
            raise ModelError(
                "the model's process died again and again",
                "memory may be too small: fewer --model-processes or a smaller --batch-size",
            )

    def _decoded(self, batch: Sequence[SpilledTurn], done: Done[ModelOrder]) -> None:
        if done.error is None:
            self._lost = 0
            records = done.value
        else:
            if done.lost:
                self._count_lost()
            if len(batch) > 1:
                self._single.extend(batch)
                return
            records = [_as_error(done.error)]
        for turn, record in zip(batch, records, strict=True):
            call = self._calls[turn.call]
            call.records[turn.index] = record
            call.remaining -= 1
            if not call.remaining:
                self._complete.append(call)

    def _assembled(self, call: _Call, facts: ModelFacts) -> Outcome:
        del self._calls[call.entry.id]
        self._spills.release(call.entry.id)
        try:
            report = self._job.assemble(call.prepared.state, call.records, facts)
        except SpeechMetaError as error:
            return Outcome(call.entry, error=error)
        except Exception as error:
            # A bug that one call meets must not affect the others.
            return Outcome(call.entry, error=(type(error).__name__, str(error)))
        return Outcome(call.entry, report=report)


def _as_error(error: Failure) -> SpeechMetaError:
    if isinstance(error, SpeechMetaError):
        return error
    return DecodingError(f"a turn could not be decoded: {error[0]}: {error[1]}")
