"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .tables import (
    Table,
    conventions,
    detail_tables,
    facts,
    published,
    summary_tables,
)

FAILURES_SHOWN = 50


def render_markdown(report: Mapping[str, Any]) -> str:
    """The whole report; tables are GitHub's."""
    lines = [f"# {report['system']['name']} on {report['dataset']['name']}", ""]
    lines += [f"- {name}: {_text(value)}" for name, value in facts(report)]
    for table in summary_tables(report):
        lines += _table(table)
    lines += ["", "## How this was counted", ""]
    lines += [f"- {sentence}" for sentence in [*conventions(report), *report["dataset"]["notes"]]]
    for table in detail_tables(report):
        lines += _table(table)
    failures = report["failures"]
    if failures:
        lines += ["", f"## Failed clips ({len(failures)})", ""]
        lines += [f"- `{item['id']}`: {_text(item['error'])}" for item in failures[:FAILURES_SHOWN]]
        if len(failures) > FAILURES_SHOWN:
            lines.append(f"- and {len(failures) - FAILURES_SHOWN} more in the JSON")
    lines += _table(published(report))
    return "\n".join(lines) + "\n"


def _table(table: Table) -> list[str]:
    lines = ["", f"## {_text(table.title)}", ""]
    lines.append("| " + " | ".join(map(_text, table.header)) + " |")
    lines.append("| --- |" + " ---: |" * (len(table.header) - 1))
    lines += ["| " + " | ".join(map(_text, row)) + " |" for row in table.rows]
    if table.note:
        lines += ["", table.note]
    return lines


def _text(value: str) -> str:
    return " ".join(value.replace("|", "\\|").replace("<", "&lt;").split())
