"""The journal of a folder run: which files there are and what became of each.

SQLite, one transaction a file, so that whatever moment a run dies at, every file is either
finished or missing. A lock beside it keeps a second run off the same output.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Self

from speechmeta.batch.discovery import FoundFile
from speechmeta.errors import OutputError, UsageError
from speechmeta.writers.files import output_error, printable

STATE_FOLDER = ".speechmeta"
"""Below the output folder: the journal, the lock, and what turns are spilled to."""

_VERSION = "1"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'missing' CHECK (state IN ('missing', 'done', 'failed')),
    audio_seconds REAL,
    document TEXT,
    finished REAL,
    digest TEXT,
    stored TEXT
);
CREATE INDEX IF NOT EXISTS by_state ON files (state);
CREATE TABLE IF NOT EXISTS others (kind TEXT PRIMARY KEY, files INTEGER NOT NULL) WITHOUT ROWID;
"""

_RESULTS = (
    "SELECT id, path, state, finished, digest, stored, document FROM files"
    " WHERE document IS NOT NULL"
)

State = Literal["missing", "done", "failed"]


@dataclass(frozen=True)
class Entry:
    """A file of the journal: `id` is its own, `relative` its path below the root, `size` bytes."""

    id: int
    relative: bytes
    size: int


@dataclass(frozen=True)
class Finished:
    """A file with a result that was made `at` this many seconds since 1970.

    Attributes:
        digest: of the recording; None unless the result went to a database.
        stored: the address of that database, where it took the result.
    """

    id: int
    relative: bytes
    state: State
    at: float
    digest: str | None = None
    stored: str | None = None


@dataclass(frozen=True)
class Counts:
    """Files by state."""

    missing: int
    done: int
    failed: int

    @property
    def total(self) -> int:
        return self.missing + self.done + self.failed


class Journal:
    """The files of one run and their results, on disk.

    Args:
        output: the run's output folder.

    Raises:
        OutputError: the journal cannot be opened or written.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = journal_path(output)
        refuse_links(output)
        with _reported(self.path):
            self._db = sqlite3.connect(self.path, isolation_level=None)
            # FULL: a finished file stays finished over a loss of power as well.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            # What is erased is to be gone from the file as well.
            self._db.execute("PRAGMA secure_delete = ON")
            self._db.executescript(_SCHEMA)
            self._add_times(output)
            self._add_columns("digest TEXT", "stored TEXT")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def _add_times(self, output: Path) -> None:
        """Gives a journal of an earlier version the times of its results, as far as they are
        known: when they were written out, or when the journal was last changed."""
        if self._has_times():
            return
        places = (output / "results.jsonl", self.path)
        at = next(path.stat().st_mtime for path in places if path.exists())
        with self._transaction():
            if self._has_times():  # another process was quicker
                return
            self._db.execute("ALTER TABLE files ADD COLUMN finished REAL")
            self._db.execute("UPDATE files SET finished = ? WHERE document IS NOT NULL", (at,))

    def _has_times(self) -> bool:
        return "finished" in self._columns()

    def _columns(self) -> set[str]:
        return {row[1] for row in self._db.execute("PRAGMA table_info(files)").fetchall()}

    def _add_columns(self, *definitions: str) -> None:
        """Gives a journal of an earlier version what it lacks, empty."""
        if all(text.split()[0] in self._columns() for text in definitions):
            return
        with self._transaction():
            there = self._columns()
            for text in definitions:
                if text.split()[0] not in there:
                    self._db.execute(f"ALTER TABLE files ADD COLUMN {text}")

    def agree(self, settings: dict[str, Any]) -> None:
        """Keeps the run's settings, or compares them with those of the run that is resumed.

        Raises:
            UsageError: a setting differs, so that results would not belong together.
        """
        wanted = {"journal": _VERSION, **{k: json.dumps(v) for k, v in settings.items()}}
        with _reported(self.path):
            kept = dict(self._db.execute("SELECT name, value FROM about"))
            if not kept:
                with self._transaction():
                    self._db.executemany("INSERT INTO about VALUES (?, ?)", list(wanted.items()))
                return
        for name in sorted(wanted.keys() | kept.keys()):
            before, now = kept.get(name), wanted.get(name)
            if before != now:
                raise UsageError(
                    f"{name} was {before} in the run to be resumed and is {now} now",
                    "resume with the same settings, or use --overwrite",
                )

    def restore(self, about: Mapping[str, str]) -> None:
        """Puts back the settings that a repair found, as `agree` wrote them."""
        with _reported(self.path), self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", list(about.items()))

    @property
    def settings(self) -> dict[str, Any]:
        """Those that `agree` kept; empty before."""
        with _reported(self.path):
            kept = dict(self._db.execute("SELECT name, value FROM about WHERE name != 'journal'"))
        try:
            return {name: json.loads(value) for name, value in kept.items()}
        except (ValueError, TypeError, RecursionError) as error:
            raise damaged(self.path, "its settings are not JSON") from error

    def paths(self) -> Iterator[bytes]:
        """The files, below the root, in their order."""
        yield from self._pages(
            "SELECT path FROM files WHERE path > ? ORDER BY path LIMIT 1000",
            lambda row: self._checked(row[0]),
            path_column=0,
        )

    def add(self, files: Iterable[FoundFile]) -> None:
        """Adds files that are not in the journal yet, as missing."""
        with _reported(self.path), self._transaction():
            self._db.executemany(
                "INSERT INTO files (path, size) VALUES (?, ?) "
                "ON CONFLICT (path) DO UPDATE SET size = excluded.size WHERE state = 'missing'",
                ((file.relative, file.size) for file in files),
            )

    def retry_failed(self) -> None:
        """Makes every failed file missing again."""
        with _reported(self.path), self._transaction():
            self._db.execute(
                "UPDATE files SET state = 'missing', document = NULL, finished = NULL"
                " WHERE state = 'failed'"
            )

    def finish(
        self,
        entry: Entry,
        state: State,
        document: str,
        audio_seconds: float | None = None,
        at: float | None = None,
        digest: str | None = None,
    ) -> None:
        """Records one file's result, a line of JSON, made `at` seconds since 1970 or now; no
        database holds it yet."""
        at = time.time() if at is None else at
        with _reported(self.path), self._transaction():
            self._db.execute(
                "UPDATE files SET state = ?, document = ?, audio_seconds = ?, finished = ?,"
                " digest = ?, stored = NULL WHERE id = ?",
                (state, document, audio_seconds, at, digest, entry.id),
            )

    def stored(self, number: int, digest: str | None, place: str | None, document: str) -> None:
        """Records which database holds a result, or that none does, and what is to be said of
        it there.

        Args:
            number: the file's id. place: the database's address, without a password.
            document: the result again, a line of JSON.
        """
        with _reported(self.path), self._transaction():
            self._db.execute(
                "UPDATE files SET digest = ?, stored = ?, document = ? WHERE id = ?",
                (digest, place, document, number),
            )

    def result(self, number: int) -> tuple[Finished, str] | None:
        """The result of one file, by its id; None where it has none."""
        with _reported(self.path):
            row = self._db.execute(f"{_RESULTS} AND id = ?", (number,)).fetchone()
        return None if row is None else self._result(row)

    def _result(self, row: tuple[Any, ...]) -> tuple[Finished, str]:
        return Finished(row[0], self._checked(row[1]), *row[2:6]), self._whole(row[6], row[1])

    def not_in(self, place: str) -> Iterator[tuple[Finished, str]]:
        """The results that this database does not hold, in the order of their paths; may be
        stored meanwhile. Records of errors are among them."""
        yield from self._pages(
            f"{_RESULTS} AND (stored IS NULL OR stored != ?) AND path > ? ORDER BY path LIMIT 200",
            self._result,
            path_column=1,
            values=(place,),
        )

    def places(self) -> list[str]:
        """The databases that hold results of the run."""
        with _reported(self.path):
            found = self._db.execute(
                "SELECT DISTINCT stored FROM files WHERE stored IS NOT NULL ORDER BY stored"
            ).fetchall()
        return [str(row[0]) for row in found]

    def finished_before(self, limit: float) -> Iterator[Finished]:
        """The files whose result was made at `limit` (seconds since 1970) or before, in the order
        of their paths; may be forgotten meanwhile."""
        yield from self._pages(
            "SELECT id, path, state, finished, digest, stored FROM files"
            f" WHERE document IS NOT NULL AND finished <= {limit!r} AND path > ?"
            " ORDER BY path LIMIT 1000",
            lambda row: Finished(row[0], self._checked(row[1]), *row[2:6]),
            path_column=1,
        )

    def forget(self, number: int) -> None:
        """Removes a file and its result; `number` is its id."""
        with _reported(self.path), self._transaction():
            self._db.execute("DELETE FROM files WHERE id = ?", (number,))

    def compact(self) -> None:
        """Rewrites the journal without room for what was removed, its log included."""
        with _reported(self.path):
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def missing(self) -> Iterator[Entry]:
        """The files without a result, in the order of their paths; may be finished meanwhile."""
        yield from self._pages(
            "SELECT id, path, size FROM files WHERE state = 'missing' AND path > ?"
            " ORDER BY path LIMIT 1000",
            lambda row: Entry(row[0], self._checked(row[1]), row[2]),
            path_column=1,
        )

    def documents(self, state: State | None = None) -> Iterator[str]:
        """The results, one line of JSON each, in the order of their paths."""
        only = f" AND state = '{state}'" if state else ""
        yield from self._pages(
            f"SELECT document, path FROM files WHERE document IS NOT NULL{only} AND path > ?"
            " ORDER BY path LIMIT 200",
            lambda row: self._whole(row[0], row[1]),
            path_column=1,
        )

    def named_documents(self) -> Iterator[tuple[bytes, str]]:
        """The results with the files that they are of, in the order of their paths."""
        yield from self._pages(
            "SELECT path, document FROM files WHERE document IS NOT NULL AND path > ?"
            " ORDER BY path LIMIT 200",
            lambda row: (self._checked(row[0]), self._whole(row[1], row[0])),
            path_column=0,
        )

    def _checked(self, relative: Any) -> bytes:
        """A file's path, if it is one below the root.

        Raises:
            OutputError: somebody else wrote this journal, or it is damaged.
        """
        if not is_below(relative):
            raise damaged(self.path, f"it names {relative!r:.80}, which is not below the folder")
        return bytes(relative)

    def _whole(self, document: object, relative: object) -> str:
        """A line of results, if it is one; half a line is never handed on."""
        if not is_document(document):
            raise damaged(self.path, f"the result of {relative!r:.80} is not whole")
        return str(document)

    def count_others(self, kinds: Mapping[str, int]) -> None:
        """Keeps how many files of each kind were no recordings, as the last walk found them."""
        with _reported(self.path), self._transaction():
            self._db.execute("DELETE FROM others")
            self._db.executemany("INSERT INTO others VALUES (?, ?)", list(kinds.items()))

    def others(self) -> dict[str, int]:
        """What `count_others` kept, the most frequent first."""
        with _reported(self.path):
            return dict(
                self._db.execute("SELECT kind, files FROM others ORDER BY files DESC, kind")
            )

    def _pages(
        self, query: str, make: Any, path_column: int, values: tuple[str, ...] = ()
    ) -> Iterator[Any]:
        # Page by page: an open cursor would pin the write-ahead log.
        last = b""
        while True:
            with _reported(self.path):
                page = self._db.execute(query, (*values, last)).fetchall()
            if not page:
                return
            yield from map(make, page)
            last = page[-1][path_column]

    def counts(self) -> Counts:
        with _reported(self.path):
            found = dict(self._db.execute("SELECT state, count(*) FROM files GROUP BY state"))
        return Counts(found.get("missing", 0), found.get("done", 0), found.get("failed", 0))

    def totals(self) -> tuple[int, float]:
        """(bytes of the missing files, seconds of audio of the finished ones)."""
        with _reported(self.path):
            row = self._db.execute(
                "SELECT coalesce(sum(size) FILTER (WHERE state = 'missing'), 0),"
                " coalesce(sum(audio_seconds), 0.0) FROM files"
            ).fetchone()
        return int(row[0]), float(row[1])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def journal_path(output: Path) -> Path:
    """Where the journal of an output folder lies."""
    return output / STATE_FOLDER / "journal.sqlite"


def remove_journal(output: Path) -> None:
    """Forgets a run: removes its journal, as `--overwrite` asks."""
    path = journal_path(output)
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if isinstance(error, sqlite3.OperationalError):
            full = "full" in str(error)
            hint = "the disk is full: free some space, then --resume" if full else ""
            raise OutputError(f"cannot write {printable(path)}: {error}", hint) from error
        raise damaged(path, str(error)) from error


def damaged(path: Path, how: str) -> OutputError:
    """The error of a journal that cannot be believed."""
    return OutputError(
        f"the journal {printable(path)} is damaged: {how}",
        "--resume --repair keeps the intact results, --overwrite starts again",
    )


def is_below(relative: object) -> bool:
    """Whether a journal's path can only be that of a file below the folder of recordings."""
    if not isinstance(relative, bytes) or not relative or b"\0" in relative:
        return False
    separators = os.fsencode(os.sep + (os.altsep or ""))
    if relative[:1] in [separators[i : i + 1] for i in range(len(separators))]:
        return False
    if os.path.splitdrive(relative)[0] or os.path.isabs(relative):
        return False
    parts = relative.replace(os.fsencode(os.altsep or os.sep), os.fsencode(os.sep))
    return not set(parts.split(os.fsencode(os.sep))) & {b"..", b".", b""}


def is_document(document: object) -> bool:
    """Whether this is one whole line of results."""
    if not isinstance(document, str) or "\n" in document:
        return False
    try:
        data = json.loads(document)
    except (ValueError, RecursionError):
        return False
    if not isinstance(data, dict) or not isinstance(data.get("audio"), dict):
        return False
    return isinstance(data.get("turns"), list) or isinstance(data.get("error"), dict)


@contextmanager
def believed(output: Path) -> Iterator[None]:
    """Around work with results that were read back: what is not as a run writes it is damage.

    Raises:
        OutputError: a result lacks something, or has it in another form.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise damaged(journal_path(output), f"a result is not as a run writes it ({what})") from (
            error
        )


def refuse_links(output: Path) -> None:
    """Sees that a run's own files are in the output folder, not somewhere that a link leads to.

    Raises:
        OutputError: one of them is a link, which a run never makes.
    """
    state = output / STATE_FOLDER
    names = ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "lock")
    for path in (state, *(state / name for name in names)):
        if path.is_symlink():
            raise OutputError(
                f"{printable(path)} is a link", "no run makes one: remove it, and look who did"
            )


@contextmanager
def run_lock(output: Path) -> Iterator[None]:
    """Holds the output folder for this process; the system lets go when the process dies.

    Raises:
        UsageError: another run holds it. OutputError: there can be no lock, such as for lack of
            permission.
    """
    path = output / STATE_FOLDER / "lock"
    refuse_links(output)
    try:
        # Not through a link, whose target would be emptied.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        opened = os.fdopen(os.open(path, flags, 0o600), "r+b")
    except OSError as error:
        raise output_error(error, path) from error
    with opened as file:
        try:
            free = _try_lock(file)
        except OSError as error:
            # Some network file systems have none.
            raise output_error(error, path) from error
        if not free:
            file.seek(0)
            owner = file.read(64).decode("ascii", "replace").strip()
            raise UsageError(
                f"another run is writing to {printable(output)}"
                + (f" (process {owner})" if owner else ""),
                "wait for it to end, or choose another output folder",
            )
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n".encode("ascii"))
        file.flush()
        yield


def _try_lock(file: IO[bytes]) -> bool:
    if os.name == "nt":
        import msvcrt

        try:
            # A byte beyond the text, so that others can read who holds the lock.
            file.seek(1 << 20)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
