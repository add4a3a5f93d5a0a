"""The engine of folder runs on a Ray cluster, with Ray Data.

Every actor keeps a model and a whole `LocalEngine`, so each record is made by the same code
as on one machine. Ray Data streams blocks of file names to the actors as these have room,
and gives a block whose actor died to another. The driver keeps the journal: it takes each
file's outcome once, in whatever order they come, and asks again for those that never came.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from speechmeta.batch.job import Job, ModelSource
from speechmeta.batch.journal import Entry
from speechmeta.batch.local import EngineOptions, LocalEngine, Outcome
from speechmeta.batch.workers import WorkerCrash
from speechmeta.errors import SpeechMetaError, require_extra

FILES_PER_BLOCK = 16
"""Files that an actor takes at once: enough to fill model batches, few enough to share out."""

FILES_PER_DATASET = 4096
"""A run is cut into data sets of this many files, so that names are not all held at once."""

ATTEMPTS = 3
"""So often a file is given to the cluster whose outcome does not come back."""

RUN_IS_OVER = -1
"""In the place of a file's id: an error that is not one file's but ends the run."""

_SPILL_PREFIX = "speechmeta-spill-"


class FileActor:
    """One of Ray Data's actors: a model, and worker processes that prepare files for it.

    Args:
        state: the pickled (job, source, options).
    """

    def __init__(self, state: bytes) -> None:
        job, source, options = pickle.loads(state)
        _remove_stale_spills()
        # The node's own disk: turns need not cross the network.
        spill = tempfile.mkdtemp(prefix=f"{_SPILL_PREFIX}{os.getpid()}-")
        self._engine = LocalEngine(job, source, options, Path(spill))

    def __call__(self, block: Any) -> Any:
        """Takes a table of files (id, path, root) and returns one of outcomes (id, outcome).

        The rows come back in the order in which they came: when Ray repeats a block after
        an actor's death, it takes the rows that it has already for the same as before.
        """
        import pyarrow as pa

        rows = block.to_pylist()
        entries = [Entry(row["id"], row["path"], 0) for row in rows]
        ids = [entry.id for entry in entries]
        try:
            done = {
                outcome.entry.id: pickle.dumps((outcome.report, outcome.error))
                for outcome in self._engine.run(iter(entries), rows[0]["root"])
            }
            outcomes = [done[number] for number in ids]
        except SpeechMetaError as error:
            # Ray would wrap it beyond recognition.
            ids, outcomes = [RUN_IS_OVER], [pickle.dumps(error)]
        return pa.table(
            {"id": pa.array(ids, pa.int64()), "outcome": pa.array(outcomes, pa.large_binary())}
        )


@contextlib.contextmanager
def _without_notes_of_the_logger() -> Iterator[None]:
    """Keeps off our stderr what Ray's logger says of itself while it starts, below Python: that a
    variable has set its level. Everything else that is written meanwhile follows afterwards."""
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        own = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(own, 2)
            os.close(own)
            kept.seek(0)
            for line in kept.read().splitlines(keepends=True):
                if b"logging.cc" not in line:
                    os.write(2, line)


class RayEngine:
    """Runs a job over files with a Ray cluster.

    Connects to the cluster that `RAY_ADDRESS` names, or else to a running one, or starts
    Ray on this machine. Every node has to see the recordings under the same path.

    Args:
        job, source: travel to the actors, so they have to be picklable.
        options: `actors` models; each with `workers` processes that prepare files.
        spill_folder: not used, as every node spills to its own disk.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(
        self, job: Job, source: ModelSource, options: EngineOptions, spill_folder: Path
    ) -> None:
        del spill_folder
        self._ray = _ray()
        # Nothing about a run is reported to anybody.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Its own processes write to our stderr, such as that nobody collects their metrics.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        self._started = not self._ray.is_initialized()
        if self._started:
            with _without_notes_of_the_logger():
                self._ray.init(log_to_driver=False, logging_level="error")
        resources = self._ray.cluster_resources()
        self._gpus = int(resources.get("GPU", 0))
        self._actors = options.actors or self._gpus or max(1, int(resources.get("CPU", 1)) // 2)
        self._state = pickle.dumps((job, source, replace(options, model_processes=0)))

    def run(self, entries: Iterator[Entry], root: bytes) -> Iterator[Outcome]:
        """Yields the outcome of every file, each once, in no particular order.

        Raises:
            ModelError: the model cannot be loaded.
            OutputError: a node has no room for the turns' waveforms.
        """
        while files := list(islice(entries, FILES_PER_DATASET)):
            waiting = {entry.id: entry for entry in files}
            for _ in range(ATTEMPTS):
                for number, outcome in self._outcomes(list(waiting.values()), root):
                    if number == RUN_IS_OVER:
                        raise pickle.loads(outcome)
                    entry = waiting.pop(number, None)
                    if entry is not None:
                        report, error = pickle.loads(outcome)
                        yield Outcome(entry, report, error)
                if not waiting:
                    break
            for entry in waiting.values():
                error = WorkerCrash(
                    f"the cluster lost the file {ATTEMPTS} times", "look at the logs of its nodes"
                )
                yield Outcome(entry, error=error)

    def close(self) -> None:
        """Leaves the cluster, or ends the Ray that was started for this run."""
        if self._started:
            self._ray.shutdown()

    def _outcomes(self, files: Sequence[Entry], root: bytes) -> Iterator[tuple[int, bytes]]:
        import pyarrow as pa
        import ray.data

        # Ray Data sets its loggers up when it is imported.
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        size = max(1, min(FILES_PER_BLOCK, -(-len(files) // self._actors)))
        blocks = [
            pa.table(
                {
                    "id": pa.array([entry.id for entry in part], pa.int64()),
                    "path": pa.array([entry.relative for entry in part], pa.binary()),
                    "root": pa.array([root] * len(part), pa.binary()),
                }
            )
            for part in (files[i : i + size] for i in range(0, len(files), size))
        ]
        outcomes = ray.data.from_arrow(blocks).map_batches(
            FileActor,
            fn_constructor_args=(self._state,),
            batch_size=size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(self._actors, len(blocks))),
            num_gpus=1 if self._gpus else 0,
            # Little, so that actors fit on every node beside Ray Data's own tasks.
            num_cpus=0.5,
        )
        tables: Any = outcomes.iter_batches(batch_size=None, batch_format="pyarrow")
        for table in tables:
            yield from zip(table["id"].to_pylist(), table["outcome"].to_pylist(), strict=True)


def _ray() -> Any:
    require_extra("ray", "ray", "a run on a cluster")
    import ray

    return ray


def _remove_stale_spills() -> None:
    # An actor is ended by a kill, so those that come after it tidy up.
    for folder in Path(tempfile.gettempdir()).glob(f"{_SPILL_PREFIX}*-*"):
        pid = folder.name.removeprefix(_SPILL_PREFIX).partition("-")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
