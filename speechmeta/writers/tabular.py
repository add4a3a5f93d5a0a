"""One row a turn: the columns of csv, tsv and parquet, and the text tables."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from speechmeta.schema import LABEL_FIELDS, CallReport
from speechmeta.visible import safe_cell, visible_json
from speechmeta.writers.base import TextWriter
from speechmeta.writers.structured import document

COLUMNS: dict[str, type] = {
    "path": str,
    "turn": int,
    "start": float,
    "end": float,
    "channel": int,
    "speaker": str,
    "SpeechActivity": bool,
    "SpeechActivity_confidence": float,
    "Transcript": str,
    **{
        name: kind
        for label in LABEL_FIELDS
        for name, kind in ((label, str), (f"{label}_confidence", float))
    },
    "loudness_db": float,
    "flags": str,
    "transcript_confidence": float,
    "language": str,
    "words": list,
}
"""Column names and types, the same for every report: a field not asked for is an empty column.

New ones stand at the end, so that who counts columns finds those that were there."""


def rows(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The turns of one `analyze` document as flat rows; absent values are None.

    `turn` counts from 0 in the document's order; `flags` are joined by spaces; `words` are a
    list of `{"word", "start", "end", "probability"}`, which text formats write as JSON.
    """
    found = []
    for number, turn in enumerate(data["turns"]):
        confidence = turn.get("confidence", {})
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row.update({name: turn[name] for name in COLUMNS if name in turn})
        row.update(
            {
                f"{name}_confidence": confidence[name]
                for name in ("SpeechActivity", *LABEL_FIELDS)
                if name in confidence
            }
        )
        row["path"] = data["audio"]["path"]
        row["turn"] = number
        row["flags"] = " ".join(turn.get("flags", [])) or None
        found.append(row)
    return found


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return visible_json(json.dumps(value, ensure_ascii=False))
    # Numbers are ours; text may be anybody's.
    return safe_cell(value) if isinstance(value, str) else str(value)


class CsvWriter(TextWriter):
    """Comma-separated, quoted as RFC 4180 asks, with a header.

    Text that a spreadsheet would take for a formula begins with a quotation mark.
    """

    name = "csv"
    separator = ","
    line_end = "\n"
    decimal = "."

    def text(self, report: CallReport) -> str:
        buffer = io.StringIO()
        table = csv.writer(buffer, delimiter=self.separator, lineterminator=self.line_end)
        table.writerow(COLUMNS)
        for row in rows(document(report)):
            table.writerow([self._cell(value) for value in row.values()])
        return buffer.getvalue()

    def _cell(self, value: object) -> str:
        text = _cell(value)
        return text.replace(".", self.decimal) if isinstance(value, float) else text


class ExcelCsvWriter(CsvWriter):
    """CSV as Excel opens it with a double click: it says that it is UTF-8, lines end in CRLF."""

    name = "csv-excel"
    line_end = "\r\n"

    @property
    def extension(self) -> str:
        return ".csv"

    def text(self, report: CallReport) -> str:
        return "\ufeff" + super().text(report)


class ExcelSemicolonWriter(ExcelCsvWriter):
    """The same for the countries whose numbers have a decimal comma."""

    name = "csv-excel-semicolon"
    separator = ";"
    decimal = ","


def _one_line(value: object) -> str:
    return _cell(" ".join(value.split()) if isinstance(value, str) else value)


class TsvWriter(TextWriter):
    """Tab-separated without quoting: whitespace inside a value becomes one space."""

    name = "tsv"

    def text(self, report: CallReport) -> str:
        lines = ["\t".join(COLUMNS)]
        for row in rows(document(report)):
            lines.append("\t".join(_one_line(value) for value in row.values()))
        return "\n".join(lines) + "\n"
