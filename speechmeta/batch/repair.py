"""A way out of a damaged journal: keep every result that is whole, forget the rest.

What is forgotten is missing, and `--resume` analyses it again. The damaged journal stays
beside the new one under another name.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from speechmeta.batch.discovery import FoundFile
from speechmeta.batch.journal import Journal, is_below, is_document, journal_path, refuse_links
from speechmeta.writers.files import output_error

_LOOKED_FOR = 1_000_000

_STATES = ("missing", "done", "failed")


def repair_journal(output: Path) -> int:
    """Rebuilds the journal of an output folder; returns how many results were kept.

    Raises:
        OutputError: the files cannot be moved or written.
    """
    path = journal_path(output)
    if not path.exists():
        return 0
    refuse_links(output)
    about = {
        name: value
        for name, value in _rows(path, ["SELECT name, value FROM about"])
        if isinstance(name, str) and isinstance(value, str)
    }
    times = dict(_rows(path, ["SELECT path, finished FROM files"]))
    changed = path.stat().st_mtime
    kept = {
        relative: (size, state, seconds, document)
        for relative, size, state, seconds, document in _file_rows(path)
        if is_below(relative) and isinstance(size, int) and _is_sound(state, seconds, document)
    }
    try:
        _set_aside(path)
    except OSError as error:
        raise output_error(error, path) from error
    with Journal(output) as journal:
        journal.restore(about)
        journal.add(FoundFile(relative, size) for relative, (size, *_) in kept.items())
        for entry in list(journal.missing()):
            _, state, seconds, document = kept[entry.relative]
            if state != "missing":
                at = times.get(entry.relative)
                known = at if isinstance(at, float) else changed
                journal.finish(entry, state, document, seconds, known)
    return sum(state != "missing" for _, state, *_ in kept.values())


def _is_sound(state: object, seconds: object, document: object) -> bool:
    if state not in _STATES or not (seconds is None or isinstance(seconds, (int, float))):
        return False
    return is_document(document) if state != "missing" else document is None


def _file_rows(path: Path) -> Iterator[tuple[Any, ...]]:
    """The rows of files; where the table breaks off, those behind are looked for by number."""
    query = "SELECT path, size, state, audio_seconds, document FROM files WHERE id"
    highest = next(_rows(path, ["SELECT max(id) FROM files"]), (None,))[0]
    found = 0
    for row in _rows(path, [f"{query} > 0 ORDER BY id"]):
        found += 1
        yield row
    if isinstance(highest, int) and found < highest:
        last = min(highest, found + _LOOKED_FOR)
        yield from _rows(path, (f"{query} = {number}" for number in range(found, last + 1)))


def _rows(path: Path, queries: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    """What each query gives until it fails."""
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(path)) as database:
        # Text that is no UTF-8 comes as bytes and is then no result.
        database.text_factory = _text
        for query in queries:
            with contextlib.suppress(sqlite3.Error):
                yield from database.execute(query)


def _text(data: bytes) -> Any:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _set_aside(path: Path) -> None:
    number = 1
    while (aside := path.with_name(f"journal-damaged-{number}.sqlite")).exists():
        number += 1
    os.replace(path, aside)
    for ending in ("-wal", "-shm"):
        beside = path.with_name(path.name + ending)
        if beside.exists():
            os.replace(beside, aside.with_name(aside.name + ending))
