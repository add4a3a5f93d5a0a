"""Retention: removes results of a folder run that are older than they may be, with every trace.

The recordings themselves are not touched; a later `--resume` analyses those that are still there.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmeta.batch.journal import STATE_FOLDER, Finished, Journal, journal_path, run_lock
from speechmeta.batch.runner import (
    CALLS,
    INDEX,
    RESULTS,
    TURNS,
    check_target,
    output_path,
    write_index,
    write_results,
    write_tables,
)
from speechmeta.batch.storing import opened
from speechmeta.errors import UsageError
from speechmeta.writers import get_writer
from speechmeta.writers.files import output_error, printable, remove_temporary
from speechmeta.writers.parquet import check_parquet

if TYPE_CHECKING:
    from speechmeta.store.sink import Sink

_UNITS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}


@dataclass(frozen=True)
class ErasedCall:
    """A result that was removed.

    Attributes:
        path: of the recording, below the folder of recordings; printable.
        state: `done` or `failed`.
        analysed: when, in seconds since 1970.
        files: of the call that were removed, below the output folder; printable.
        stored: the address of the database that held the result; None for none.
    """

    path: str
    state: str
    analysed: float
    files: tuple[str, ...]
    stored: str | None = None

    @property
    def analysed_at(self) -> str:
        """As ISO 8601, in UTC."""
        return datetime.fromtimestamp(self.analysed, UTC).isoformat(timespec="seconds")

    def as_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "state": self.state,
            "analysed": self.analysed_at,
            "files": list(self.files),
            **({} if self.stored is None else {"stored": self.stored}),
        }


@dataclass
class Erasure:
    """What was removed, or would be.

    Attributes:
        calls: in the order of their paths.
        leftovers: what killed and repaired runs had left; printable.
        kept: results that are younger.
    """

    dry_run: bool
    calls: list[ErasedCall] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    kept: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "dry_run": self.dry_run,
            "erased": [call.as_json() for call in self.calls],
            "leftovers": self.leftovers,
            "kept": self.kept,
        }


def seconds_of(age: str) -> float:
    """`90d`, `12h` or `8w` in seconds.

    Raises:
        UsageError: it is none of these.
    """
    match = re.fullmatch(r"(\d{1,6})\s*([hdw])", age.strip().lower())
    if match is None:
        raise UsageError(f"{age!r} is not an age", "write hours, days or weeks: 12h, 90d, 8w")
    return float(match[1]) * _UNITS[match[2]]


def erase(
    output: str | os.PathLike[str],
    older_than: float,
    *,
    dry_run: bool = False,
    now: float | None = None,
    sink: str | None = None,
    keep_stored: bool = False,
) -> Erasure:
    """Removes the results that were made more than `older_than` seconds ago.

    Removed are a call's line in `results.jsonl`, its rows in the tables and in `index.html`, its
    files below `calls/` and its entry in the journal, whose pages are rewritten, so that nothing
    stays in them; before that, its rows in the database that the run wrote to, unless the call
    was analysed again since. A run that is killed meanwhile is finished by the next.

    Args:
        dry_run: remove nothing, only say what would be removed.
        now: seconds since 1970, in place of the clock's.
        sink: URL of the database, where its password or its place are not those that the run
            remembers.
        keep_stored: leave the database alone.

    Raises:
        UsageError: the folder holds no run, or one is writing to it; or results are in a database
            that cannot be opened without more being said.
        OutputError: something cannot be removed or written.
        StoreError: the database does not answer; nothing was removed from the folder then.
    """
    out = Path(output)
    if not journal_path(out).exists():
        raise UsageError(
            f"{printable(out)} holds no folder run", "give the -o folder of `speechmeta batch`"
        )
    limit = (time.time() if now is None else now) - older_than
    with ExitStack() as stack:
        stack.enter_context(run_lock(out))
        journal = stack.enter_context(Journal(out))
        url = None if keep_stored else sink or _place_of(journal.places())
        database = stack.enter_context(opened(url, there=True))
        if (out / TURNS).exists() and not dry_run:
            check_parquet()
        extensions = [get_writer(name).extension for name in journal.settings.get("formats", [])]
        found = Erasure(dry_run)
        old = list(journal.finished_before(limit))
        if database is not None and not dry_run:
            _erase_rows(database, [item.digest for item in old if item.digest], limit)
        for finished in old:
            files = [path for path in _files_of(out, finished, extensions) if path.exists()]
            if not dry_run:
                _remove(out, files)
                journal.forget(finished.id)
            found.calls.append(
                ErasedCall(
                    path=printable(finished.relative),
                    state=finished.state,
                    analysed=finished.at,
                    files=tuple(printable(path.relative_to(out)) for path in files),
                    stored=None if keep_stored else finished.stored,
                )
            )
        counts = journal.counts()
        found.kept = counts.done + counts.failed - (len(found.calls) if dry_run else 0)
        leftovers = list(_leftovers(out, limit, bool(found.calls)))
        found.leftovers = [printable(path.relative_to(out)) for path in leftovers]
        if not dry_run:
            # Also where nothing was found: an erasure that was killed may have come this far.
            journal.compact()
            if (out / RESULTS).exists():
                write_results(journal, out)
            if (out / TURNS).exists():
                write_tables(journal, out)
            if (out / INDEX).exists():
                write_index(journal, out)
            for path in leftovers:
                _remove_leftover(path)
            remove_temporary(out)
        return found


def erase_stored(
    sink: str, older_than: float, *, dry_run: bool = False, now: float | None = None
) -> Erasure:
    """Removes from a database, and from nowhere else, the calls that were analysed more than
    `older_than` seconds ago, such as those that a server wrote.

    Args:
        sink: URL of the database. dry_run, now: as for `erase`.

    Raises:
        UsageError: the URL names no database that is there. StoreError: it does not answer.
    """
    limit = (time.time() if now is None else now) - older_than
    with opened(sink, there=True) as database:
        if database is None:
            raise UsageError("no database was named", "add --sink URL")
        found = Erasure(dry_run)
        old = database.calls(limit)
        if not dry_run:
            _erase_rows(database, [call.digest for call in old], limit)
        for call in old:
            found.calls.append(
                ErasedCall(call.path, "done", call.analysed, (), stored=database.address)
            )
        found.kept = database.count() - (len(old) if dry_run else 0)
        return found


def _place_of(places: list[str]) -> str | None:
    """The database that a run remembers.

    Raises:
        UsageError: more has to be said of it.
    """
    if not places:
        return None
    hint = "add --sink URL, or --keep-stored to leave it alone"
    if len(places) > 1:
        raise UsageError(f"results are in {' and '.join(places)}", hint)
    from speechmeta.store.address import HIDDEN

    if HIDDEN in places[0]:
        raise UsageError(f"results are in {places[0]} too, whose password is not kept", hint)
    return places[0]


def _erase_rows(database: Sink, digests: list[str], limit: float) -> None:
    for digest in digests:
        database.erase(digest, limit)
    if digests:
        # Also where the rows were gone: an erasure that was killed may have come this far.
        database.compact()


def _files_of(out: Path, finished: Finished, extensions: list[str]) -> Iterator[Path]:
    for extension in extensions:
        path = output_path(out, finished.relative, extension)
        check_target(out, path)
        yield path


def _remove(out: Path, files: list[Path]) -> None:
    for path in files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise output_error(error, path) from error
        for folder in path.parents:
            if folder in (out, out / CALLS):
                break
            with contextlib.suppress(OSError):  # other calls are in it
                folder.rmdir()


def _leftovers(out: Path, limit: float, erased: bool) -> Iterator[Path]:
    """Turns' audio of killed runs, and damaged journals, in which old results cannot be told from
    young ones."""
    state = out / STATE_FOLDER
    yield from sorted(state.glob("spill-*"))
    for path in sorted(state.glob("journal-damaged-*")):
        if erased or path.lstat().st_mtime <= limit:
            yield path


def _remove_leftover(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(error, path) from error


__all__ = ["ErasedCall", "Erasure", "erase", "erase_stored", "seconds_of"]
