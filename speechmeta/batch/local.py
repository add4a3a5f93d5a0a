"""The engine of folder runs on one machine: the files of a folder through a `Flow`.

What is held at any time is bounded by `flow.QUEUED_SECONDS`, whatever the number of files or
their length.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from speechmeta.batch.flow import Finished, Flow
from speechmeta.batch.job import (
    Job,
    ModelFacts,
    ModelOrder,
    ModelSource,
    ModelTask,
    PrepareTask,
)
from speechmeta.batch.journal import Entry
from speechmeta.batch.workers import Failure, WorkerPool
from speechmeta.errors import OutputError
from speechmeta.schema import CallReport


@dataclass(frozen=True)
class Outcome:
    """What became of one file: a report, or an error (as in `workers.Done`)."""

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
        self._options = options
        self._entries: dict[int, Entry] = {}
        self._postponed: deque[Entry] = deque()
        self._tight = False
        prepare: WorkerPool[int] = WorkerPool(PrepareTask(job), options.workers, options.timeout)
        self._flow = Flow(job, prepare, self._model_pool(source), options.batch_size, spill_folder)

    def _model_pool(self, source: ModelSource) -> WorkerPool[ModelOrder]:
        count = self._options.model_processes
        threads = max(1, (os.cpu_count() or 1) // count) if count else None
        pool: WorkerPool[ModelOrder] = WorkerPool(
            ModelTask(source, threads), count or 1, on_ready=self._on_facts, threaded=not count
        )
        pool.start(count or 1)
        return pool

    def _on_facts(self, facts: ModelFacts) -> None:
        self._flow.facts = facts

    def run(self, entries: Iterator[Entry], root: bytes) -> Iterator[Outcome]:
        """Yields the outcome of every file as it ends, in no particular order.

        Args:
            entries: files, their paths relative to `root`; taken one by one as there is room.

        Raises:
            ModelError: the model cannot be loaded, or its processes keep dying.
            OutputError: there is no room for the turns' waveforms.
        """
        entry = next(entries, None)
        while entry is not None or self._flow.busy:
            while entry is not None and self._room():
                self._entries[entry.id] = entry
                self._flow.begin(entry.id, os.path.join(root, entry.relative))
                entry = self._postponed.popleft() if self._postponed else next(entries, None)
            for ended in self._flow.step():
                outcome = self._ended(ended)
                if outcome is not None:
                    yield outcome
            if entry is None and self._postponed:
                entry = self._postponed.popleft()

    def close(self) -> None:
        """Ends all workers; whatever was being done is dropped."""
        self._flow.close()

    def _room(self) -> bool:
        return self._flow.room() > 0 and not (self._tight and self._flow.busy)

    def _ended(self, ended: Finished) -> Outcome | None:
        entry = self._entries.pop(ended.key)
        if isinstance(ended.error, OutputError) and not ended.prepared:
            # The disk is full, which is not the fault of this file. From here on files go
            # one by one; only when one alone finds no room is the run over.
            if self._tight and not self._flow.decoding:
                raise ended.error
            self._tight = True
            self._postponed.append(entry)
            return None
        return Outcome(entry, ended.report, ended.error)
