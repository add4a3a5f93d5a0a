"""The tables of results and their rows: those of the Parquet files, for SQL.

Names are in small letters with underscores, so that no query has to quote them; `start`, `end` and
`when`, which SQL keeps for itself, are `start_seconds`, `end_seconds` and `condition`. All tables
but `calls` are joined to it by `digest`, the SHA-256 of the recording.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Double,
    Integer,
    MetaData,
    Table,
    Text,
)

from speechmeta.writers.tabular import (
    CALL_COLUMNS,
    COLUMNS,
    SPEAKER_COLUMNS,
    call_row,
    rows,
    speaker_rows,
)

Row = dict[str, Any]

_RENAMED = {"start": "start_seconds", "end": "end_seconds", "when": "condition"}

_TYPES: dict[type, Any] = {
    str: Text,
    int: Integer,
    float: Double,
    bool: Boolean,
    dict: JSON(none_as_null=True),
}


def column_name(name: str) -> str:
    """A key of the document as a column: `SpeechActivity_confidence` is
    `speech_activity_confidence`."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return _RENAMED.get(plain, plain)


def _columns(kinds: Mapping[str, type], without: Sequence[str] = ()) -> Iterator[Column[Any]]:
    for name, kind in kinds.items():
        if name not in without:
            yield Column(column_name(name), _TYPES[kind])


def _key(*numbers: str) -> list[Column[Any]]:
    return [
        Column("digest", Text, primary_key=True),
        *(Column(name, Integer, primary_key=True, autoincrement=False) for name in numbers),
    ]


METADATA = MetaData()

CALLS = Table(
    "calls",
    METADATA,
    *_key(),
    *_columns(CALL_COLUMNS),
    Column("failures", Integer),
    Column("schema_version", Text),
    Column("analysed_at", DateTime(timezone=True)),
    Column("call_fields", JSON(none_as_null=True)),
)
"""A row for each recording; `failures` counts the parts of its result that could not be had."""

SPEAKERS = Table(
    "speakers", METADATA, *_key("number"), *_columns(SPEAKER_COLUMNS, without=("path",))
)

TURNS = Table(
    "turns", METADATA, *_key("turn"), *_columns(COLUMNS, ("path", "turn", "words", "alerts"))
)

_WORD: dict[str, type] = {"word": str, "start": float, "end": float, "probability": float}
_ALERT: dict[str, type] = {
    "rule": str, "when": str, "start": float, "end": float, "turn": int, "speaker": str,
    "text": str, "value": float,
}  # fmt: skip

WORDS = Table("words", METADATA, *_key("turn", "number"), *_columns(_WORD))

ALERTS = Table("alerts", METADATA, *_key("number"), *_columns(_ALERT))

PARTS = (SPEAKERS, TURNS, WORDS, ALERTS)
"""The tables that hold several rows of a call."""


def call_of(digest: str, data: Mapping[str, Any], analysed: float) -> Row:
    """The row of `CALLS`.

    Args:
        data: an `analyze` document. analysed: seconds since 1970.
    """
    given = dict(data)
    return _clean(
        {
            "digest": digest,
            **{column_name(name): value for name, value in call_row(given).items()},
            "failures": len(given.get("failures") or []),
            "schema_version": given["schema_version"],
            "analysed_at": datetime.fromtimestamp(analysed, UTC),
            "call_fields": given.get("call_fields"),
        }
    )


def parts_of(digest: str, data: Mapping[str, Any]) -> Iterator[tuple[Table, list[Row]]]:
    """The rows of each of `PARTS`, with every column."""
    given = dict(data)
    said = rows(given)
    spoken = (
        {**word, "turn": turn["turn"], "number": number}
        for turn in said
        for number, word in enumerate(turn["words"] or [])
    )
    speakers = ({**row, "number": number} for number, row in enumerate(speaker_rows(given)))
    alerts = ({**row, "number": number} for number, row in enumerate(given.get("alerts") or []))
    for table, found in ((SPEAKERS, speakers), (TURNS, said), (WORDS, spoken), (ALERTS, alerts)):
        yield table, [_row(table, digest, row) for row in found]


def _row(table: Table, digest: str, given: Mapping[str, Any]) -> Row:
    named = {column_name(name): value for name, value in given.items()}
    named["digest"] = digest
    return _clean({column.name: named.get(column.name) for column in table.columns})


def _clean(row: Row) -> Row:
    return {name: _without_null(value) for name, value in row.items()}


def _without_null(value: Any) -> Any:
    """PostgreSQL's text and JSON hold every character but U+0000."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {_without_null(name): _without_null(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_null(item) for item in value]
    return value


__all__ = ["CALLS", "METADATA", "PARTS", "call_of", "column_name", "parts_of"]
