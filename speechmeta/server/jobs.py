"""Jobs on the disk: what was accepted, by whom, and what became of it.

They lie in the journal of `batch`, one row of its files each, with a second table beside it, so
that a server that is killed at any moment knows at its next start what it has promised.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speechmeta.batch.discovery import FoundFile
from speechmeta.batch.journal import STATE_FOLDER, Entry, Finished, Journal, damaged
from speechmeta.errors import SpeechMetaError
from speechmeta.schema import CallReport
from speechmeta.server.problems import body_of
from speechmeta.writers.files import output_error
from speechmeta.writers.structured import compact, document

RECORDINGS = "recordings"
"""Below the state folder: recordings that were sent and are not done with."""

MAX_ATTEMPTS = 5
"""So often a job is begun; one that takes the server down each time is given up."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    file INTEGER NOT NULL UNIQUE REFERENCES files (id),
    owner TEXT NOT NULL,
    asked TEXT NOT NULL,
    webhook TEXT,
    created REAL NOT NULL,
    ended REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    deliveries INTEGER NOT NULL DEFAULT 0,
    due REAL
) WITHOUT ROWID;
"""

Status = Literal["queued", "done", "failed"]
_STATUS: dict[str, Status] = {"missing": "queued", "done": "done", "failed": "failed"}


@dataclass(frozen=True)
class Asked:
    """What a job is to do; JSON in the journal.

    Attributes:
        path: of the recording. name: how its sender calls it. kept: it was sent, and is ours.
        options: of the call, as plain JSON types.
    """

    path: str
    name: str
    kept: bool
    options: dict[str, Any]
    language: str | None = None
    hotwords: str | None = None


@dataclass(frozen=True)
class Job:
    """A job as it stands.

    Attributes:
        entry: its row in the journal. document: the result or the error, one line of JSON.
        deliveries: how often its webhook was tried.
    """

    id: str
    entry: Entry
    owner: str
    asked: Asked
    webhook: str | None
    created: float
    ended: float | None
    status: Status
    attempts: int
    deliveries: int
    document: str | None


class JobStore(Journal):
    """The jobs of a server; for one thread.

    Args:
        state: the server's folder.

    Raises:
        OutputError: the folder or the journal cannot be written.
        UsageError: the folder holds a folder run.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        try:
            (state / STATE_FOLDER).mkdir(parents=True, exist_ok=True)
            (state / RECORDINGS).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise output_error(error, state) from error
        super().__init__(state)
        self.path.chmod(0o600)
        opened = self.path.stat()
        self._opened = (opened.st_dev, opened.st_ino)
        self.agree({"holds": "jobs of a server"})
        with self._careful():
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.executescript(_SCHEMA)

    @property
    def is_whole(self) -> bool:
        """Whether the folder still holds the journal that is open, and its place for recordings.

        What is written to a journal that was deleted is gone with the server; any thread may ask.
        """
        try:
            found = self.path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._opened and (self.state / RECORDINGS).is_dir()

    def accept(self, number: str, owner: str, asked: Asked, webhook: str | None) -> None:
        """Takes a job on, for good."""
        relative = f"jobs/{number}".encode("ascii")
        self.add([FoundFile(relative, 0)])
        with self._careful():
            self._db.execute(
                "INSERT INTO jobs (id, file, owner, asked, webhook, created)"
                " SELECT ?, id, ?, ?, ?, ? FROM files WHERE path = ?",
                (number, owner, json.dumps(vars(asked)), webhook, time.time(), relative),
            )

    def job(self, number: str) -> Job | None:
        """A job by its id."""
        return next(self._jobs("jobs.id = ?", (number,)), None)

    def unfinished(self) -> list[Job]:
        """The jobs that are to be done, the oldest first."""
        return list(self._jobs("files.state = 'missing' ORDER BY created, jobs.id", ()))

    def begun(self, number: str) -> None:
        """Counts an attempt."""
        with self._careful():
            self._db.execute("UPDATE jobs SET attempts = attempts + 1 WHERE id = ?", (number,))

    def end(
        self, job: Job, outcome: CallReport | SpeechMetaError, digest: str | None = None
    ) -> None:
        """Keeps what came of a job, and deletes the recording if it was sent; `digest` is that of
        the recording, where results go to a database."""
        if isinstance(outcome, CallReport):
            line = compact(document(outcome))
            self.finish(job.entry, "done", line, outcome.audio.duration, digest=digest)
        else:
            self.finish(job.entry, "failed", compact(body_of(outcome)))
        now = time.time()
        with self._careful():
            self._db.execute(
                "UPDATE jobs SET ended = ?, due = CASE WHEN webhook IS NULL THEN NULL ELSE ? END"
                " WHERE id = ?",
                (now, now, job.id),
            )
        self.forget_recording(job)

    def forget_recording(self, job: Job) -> None:
        """Deletes the recording of a job, if it was sent."""
        if job.asked.kept:
            folder = Path(job.asked.path).parent
            if folder.parent == self.state / RECORDINGS:
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self, job: Job) -> None:
        """Forgets a job and all that is of it."""
        with self._careful(), self._transaction():
            self._db.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
            self._db.execute("DELETE FROM files WHERE id = ?", (job.entry.id,))
        self.forget_recording(job)

    def remove_old(self, seconds: float) -> int:
        """Forgets the jobs that ended so long ago; returns how many."""
        old = list(self._jobs("ended < ?", (time.time() - seconds,)))
        for job in old:
            self.remove(job)
        return len(old)

    def tidy(self) -> None:
        """Deletes recordings that belong to no job: their upload was cut by a kill."""
        kept = {Path(job.asked.path).parent.name for job in self.unfinished()}
        for folder in (self.state / RECORDINGS).iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        with self._careful():
            # Between its two rows a job was not yet promised to anybody.
            self._db.execute("DELETE FROM files WHERE id NOT IN (SELECT file FROM jobs)")
            # A kill may have come between a result and the note that there is one.
            self._db.execute(
                "UPDATE jobs SET ended = ?1, due = CASE WHEN webhook IS NULL THEN NULL ELSE ?1 END"
                " WHERE ended IS NULL AND file IN (SELECT id FROM files WHERE state != 'missing')",
                (time.time(),),
            )

    def due(self) -> list[Job]:
        """The jobs whose webhook is to be called now."""
        return list(self._jobs("due <= ? ORDER BY due LIMIT 100", (time.time(),)))

    def unstored(self, place: str) -> list[tuple[Finished, str]]:
        """The results that this database is to have and does not, at most 100 of them."""
        query = (
            "SELECT id, path, state, finished, digest, stored, document FROM files"
            " WHERE state = 'done' AND digest IS NOT NULL AND (stored IS NULL OR stored != ?)"
            " ORDER BY finished LIMIT 100"
        )
        with self._careful():
            rows = self._db.execute(query, (place,)).fetchall()
        return [(Finished(*row[:6]), self._whole(row[6], row[1])) for row in rows]

    def delivered(self, job: Job, again_in: float | None) -> None:
        """Counts a call of a webhook; the next one is in so many seconds, or there is none."""
        due = None if again_in is None else time.time() + again_in
        with self._careful():
            self._db.execute(
                "UPDATE jobs SET deliveries = deliveries + 1, due = ? WHERE id = ?", (due, job.id)
            )

    def by_status(self) -> dict[str, int]:
        """How many jobs there are, by status."""
        counts = self.counts()
        return {"queued": counts.missing, "done": counts.done, "failed": counts.failed}

    def _jobs(self, which: str, values: tuple[Any, ...]) -> Iterator[Job]:
        query = (
            "SELECT jobs.id, files.id, files.path, files.size, owner, asked, webhook, created,"
            " ended, files.state, attempts, deliveries, document"
            f" FROM jobs JOIN files ON files.id = jobs.file WHERE {which}"
        )
        with self._careful():
            rows = self._db.execute(query, values).fetchall()
        for number, file, path, size, owner, asked, *rest in rows:
            webhook, created, ended, state, attempts, deliveries, line = rest
            try:
                wanted = Asked(**json.loads(asked))
            except (ValueError, TypeError) as error:
                raise damaged(self.path, f"the job {number!r:.40} is not whole") from error
            yield Job(
                number, Entry(file, path, size), owner, wanted, webhook, created, ended,
                _STATUS[state], attempts, deliveries, line,
            )  # fmt: skip

    @contextmanager
    def _careful(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise damaged(self.path, str(error)) from error
