"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .compare_tables import comparison_commands, comparison_facts, comparison_tables
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
    for table in published(report):
        lines += _table(table)
    return "\n".join(lines) + "\n"


def render_comparison_markdown(comparison: Mapping[str, Any]) -> str:
    """A comparison of reports; tables are GitHub's."""
    lines = ["# Comparison on the same clips", ""]
    lines += [f"- {key}: {_text(value)}" for key, value in comparison_facts(comparison)]
    for table in comparison_tables(comparison):
        lines += _table(table)
    lines += ["", "## How this was counted", ""]
    lines += [f"- {note}" for note in comparison["notes"]]
    commands = comparison_commands(comparison)
    if commands:
        lines += ["", "## Commands of the reports", ""]
        lines += [f"- {key}: `{_text(command)}`" for key, command in commands]
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
