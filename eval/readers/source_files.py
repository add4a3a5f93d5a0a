"""What readers share: finding a data set's root and split, reading its tables and lists."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from speechmeta.errors import DatasetError, UsageError


def find_root(path: Path, marks: Sequence[str], inside: Sequence[str]) -> Path | None:
    """The first of `path` and the folders `inside` it (glob patterns) that has a mark.

    Args:
        marks: glob patterns of what the data set's root contains.
    """
    candidates = [path, *(found for pattern in inside for found in sorted(path.glob(pattern)))]
    for candidate in candidates:
        if candidate.is_dir() and any(next(candidate.glob(mark), None) for mark in marks):
            return candidate
    return None


def choose_split(split: str | None, known: Sequence[str], default: str) -> str:
    """The asked split, or the default.

    Raises:
        UsageError: the distribution has no such split.
    """
    chosen = default if split is None else split
    if chosen not in known:
        raise UsageError(
            f"there is no split {chosen!r}", f"found {', '.join(known) if known else 'none'}"
        )
    return chosen


def read_table(path: Path, delimiter: str, quoted: bool) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a TSV or CSV file with a header; missing cells are empty.

    Raises:
        DatasetError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(
                file,
                delimiter=delimiter,
                quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
                restval="",
            )
            for row in reader:
                yield reader.line_num, {key: row[key] or "" for key in row if key is not None}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"cannot read {path}: {error}", "check the file") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        DatasetError: the file cannot be read as UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {path}: {error}", "check the file") from error
