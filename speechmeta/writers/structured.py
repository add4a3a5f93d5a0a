"""JSON and JSON Lines: the document of `speechmeta analyze FILE --json`."""

from __future__ import annotations

import json
from typing import Any

from speechmeta.schema import CallReport
from speechmeta.visible import visible_json
from speechmeta.writers.base import TextWriter


def document(report: CallReport) -> dict[str, Any]:
    """The report as plain JSON types, in the contract's order of keys; NaN becomes null."""
    data: dict[str, Any] = json.loads(report.model_dump_json(by_alias=True))
    return data


def compact(data: dict[str, Any]) -> str:
    """One line of JSON without its line end."""
    return visible_json(json.dumps(data, ensure_ascii=False, allow_nan=False))


class JsonWriter(TextWriter):
    """The document, indented."""

    name = "json"

    def text(self, report: CallReport) -> str:
        text = json.dumps(document(report), ensure_ascii=False, allow_nan=False, indent=2)
        return visible_json(text) + "\n"


class JsonLinesWriter(TextWriter):
    """The document on one line, so that files can be joined with `cat`."""

    name = "jsonl"

    def text(self, report: CallReport) -> str:
        return compact(document(report)) + "\n"
