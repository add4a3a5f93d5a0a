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
    "alerts": str,
    "overlapped": bool,
}
"""Column names and types, the same for every report: a field not asked for is an empty column.

New ones stand at the end, so that who counts columns finds those that were there."""


def rows(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The turns of one `analyze` document as flat rows; absent values are None.

    `turn` counts from 0 in the document's order; `flags` are joined by spaces; `words` are a
    list of `{"word", "start", "end", "probability"}`, which text formats write as JSON;
    `alerts` are the names of the rules that found something in the turn, joined by semicolons.
    """
    alerts: dict[int, list[str]] = {}
    for alert in data.get("alerts") or []:
        if "turn" in alert:
            alerts.setdefault(alert["turn"], []).append(alert["rule"])
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
        row["alerts"] = "; ".join(dict.fromkeys(alerts.get(number, []))) or None
        row["flags"] = " ".join(turn.get("flags", [])) or None
        found.append(row)
    return found


CALL_COLUMNS: dict[str, type] = {
    "path": str,
    "duration": float,
    "sample_rate": int,
    "channels": int,
    "codec": str,
    "model": str,
    "turns": int,
    "speakers": int,
    "talk_seconds": float,
    "silence_seconds": float,
    "overlap_seconds": float,
    "interruptions": int,
    "response_latency_seconds": float,
    "words_per_minute": float,
    "loudness_db": float,
    "speech_seconds": float,
    "non_speech_seconds": float,
    "skipped_seconds": float,
    "missing_seconds": float,
    "redactions": int,
    "warnings": int,
}
"""Columns of the table of calls: `turns`, `speakers`, `interruptions`, `redactions` and `warnings`
are counts."""

SPEAKER_COLUMNS: dict[str, type] = {
    "path": str,
    "speaker": str,
    "channel": int,
    "turns": int,
    "talk_seconds": float,
    "talk_share": float,
    "silence_seconds": float,
    "overlap_seconds": float,
    "interruptions": int,
    "longest_monologue_seconds": float,
    "response_latency_seconds": float,
    "words_per_minute": float,
    "loudness_db": float,
    **{
        name: kind
        for label in ("Gender", "Age", "Accent")
        for name, kind in ((label, str), (f"{label}_confidence", float))
    },
    "Emotion": str,
    "Emotion_shares": dict,
}
"""Columns of the table of speakers. `Emotion` is the one with the largest share."""


def call_row(data: dict[str, Any]) -> dict[str, Any]:
    """One `analyze` document as a row of `CALL_COLUMNS`; absent values are None."""
    audio, measures = data["audio"], data["conversation"]
    given = {**audio, **measures, **data["coverage"]}
    counts = {
        "turns": len(data["turns"]),
        "speakers": len(data["speakers"]),
        "interruptions": len(measures["interruptions"]),
        "redactions": None if data.get("redactions") is None else len(data["redactions"]),
        "warnings": len(data["warnings"]),
        "model": data["model"]["name"],
    }
    return {name: counts[name] if name in counts else given.get(name) for name in CALL_COLUMNS}


def speaker_rows(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The speakers of one `analyze` document as rows of `SPEAKER_COLUMNS`."""
    found = []
    for speaker in data["speakers"]:
        row: dict[str, Any] = {name: speaker.get(name) for name in SPEAKER_COLUMNS}
        row["path"] = data["audio"]["path"]
        for label in ("Gender", "Age", "Accent"):
            estimate = speaker.get(label) or {}
            row[label] = estimate.get("value")
            row[f"{label}_confidence"] = estimate.get("confidence")
        shares = speaker.get("Emotion") or None
        row["Emotion"] = max(shares, key=shares.__getitem__) if shares else None
        row["Emotion_shares"] = shares
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
