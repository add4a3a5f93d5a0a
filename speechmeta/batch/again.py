"""Tables and the page of a folder run that was made, written again from its journal."""

from __future__ import annotations

import os
from pathlib import Path

from speechmeta.batch.journal import Journal, run_lock
from speechmeta.batch.runner import (
    CALLS_TABLE,
    INDEX,
    SPEAKERS,
    TURNS,
    write_index,
    write_tables,
)
from speechmeta.batch.summary import check_run
from speechmeta.writers.parquet import check_parquet


def write_again(
    output: str | os.PathLike[str], *, report: bool = False, parquet: bool = False
) -> list[Path]:
    """Writes what a run, finished or not, was not asked for when it was made; nothing is analysed.

    Args:
        report: write `index.html`. It links to those pages of calls that the run has made.
        parquet: write the tables of turns, calls and speakers.

    Returns:
        the files that were written.

    Raises:
        UsageError: the folder holds no run, or another run is writing there.
        MissingExtraError: Parquet's library is not installed.
        OutputError: they cannot be written.
    """
    out = Path(output)
    check_run(out)
    if parquet:
        check_parquet()
    written: list[Path] = []
    with run_lock(out), Journal(out) as journal:
        if parquet:
            write_tables(journal, out)
            written += [out / name for name in (TURNS, CALLS_TABLE, SPEAKERS)]
        if report:
            write_index(journal, out)
            written.append(out / INDEX)
    return written


__all__ = ["write_again"]
