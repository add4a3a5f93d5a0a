"""Parquet: one row a turn, for one report or for a whole folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import IO, Any

from speechmeta.errors import require_extra
from speechmeta.schema import CallReport
from speechmeta.writers.base import Writer
from speechmeta.writers.structured import document
from speechmeta.writers.tabular import (
    CALL_COLUMNS,
    COLUMNS,
    SPEAKER_COLUMNS,
    call_row,
    rows,
    speaker_rows,
)

ROWS_PER_GROUP = 16_384


def check_parquet() -> None:
    """Looks for pyarrow.

    Raises:
        MissingExtraError: it is not installed.
    """
    require_extra("pyarrow", "parquet", "Parquet")


def turn_schema() -> Any:
    """The `pyarrow.Schema` of the table of turns; every column may be null.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    return _schema(COLUMNS)


def _schema(columns: dict[str, type]) -> Any:
    check_parquet()
    import pyarrow as pa

    word = pa.struct(
        [
            ("word", pa.string()),
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("probability", pa.float64()),
        ]
    )
    kinds = {
        str: pa.string(),
        int: pa.int32(),
        float: pa.float64(),
        bool: pa.bool_(),
        list: pa.list_(word),
        dict: pa.map_(pa.string(), pa.float64()),
    }
    return pa.schema([pa.field(name, kinds[kind]) for name, kind in columns.items()])


def write_turns(documents: Iterable[dict[str, Any]], file: IO[bytes]) -> int:
    """Writes the turns of many `analyze` documents as one table; returns the number of rows.

    Documents are taken one by one, so memory does not grow with their number.
    """
    return _write(documents, rows, COLUMNS, file)


def write_calls(documents: Iterable[dict[str, Any]], file: IO[bytes]) -> int:
    """Writes a row for each document, see `tabular.CALL_COLUMNS`; returns their number."""
    return _write(documents, lambda data: [call_row(data)], CALL_COLUMNS, file)


def write_speakers(documents: Iterable[dict[str, Any]], file: IO[bytes]) -> int:
    """Writes a row for each speaker of each document, see `tabular.SPEAKER_COLUMNS`; returns
    their number."""
    return _write(documents, speaker_rows, SPEAKER_COLUMNS, file)


def _write(
    documents: Iterable[dict[str, Any]],
    rows_of: Callable[[dict[str, Any]], list[dict[str, Any]]],
    columns: dict[str, type],
    file: IO[bytes],
) -> int:
    schema = _schema(columns)
    import pyarrow as pa
    import pyarrow.parquet as pq

    total = 0
    pending: list[dict[str, Any]] = []
    with pq.ParquetWriter(file, schema, compression="zstd") as table:
        for data in documents:
            pending.extend(rows_of(data))
            if len(pending) >= ROWS_PER_GROUP:
                table.write_table(pa.Table.from_pylist(pending, schema=schema))
                total += len(pending)
                pending = []
        if pending:
            table.write_table(pa.Table.from_pylist(pending, schema=schema))
    return total + len(pending)


class ParquetWriter(Writer):
    """The turns as a table; the rest of the document is JSON in the metadata `speechmeta`."""

    name = "parquet"

    def check(self) -> None:
        check_parquet()

    def dump(self, report: CallReport, file: IO[bytes]) -> None:
        data = document(report)
        rest = {name: value for name, value in data.items() if name != "turns"}
        schema = turn_schema().with_metadata({"speechmeta": json.dumps(rest)})
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pylist(rows(data), schema=schema)
        pq.write_table(table, file, compression="zstd")
