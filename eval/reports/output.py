"""Where a report goes, and how its JSON is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from speechmeta.errors import DatasetError, OutputError

from ..metrics.normalizers import Normalizer
from ..types import Record

KIND = "speechmeta-eval"


@dataclass(frozen=True)
class OutputPaths:
    """The four files of a run."""

    report: Path
    markdown: Path
    html: Path
    records: Path

    @classmethod
    def of(cls, output: str | Path) -> Self:
        """Files in a folder, or beside a file whose name ends in `.json`."""
        path = Path(output).expanduser()
        if path.suffix == ".json":
            return cls(
                path,
                path.with_suffix(".md"),
                path.with_suffix(".html"),
                path.with_suffix(".records.jsonl"),
            )
        return cls(
            path / "report.json", path / "report.md", path / "report.html", path / "records.jsonl"
        )


def write_report(
    report: Mapping[str, Any],
    records: Sequence[Record],
    normalizer: Normalizer,
    paths: OutputPaths,
) -> None:
    """Writes JSON, Markdown and HTML; the records are there already.

    Raises:
        OutputError: a file cannot be written.
    """
    from .markdown import render_markdown
    from .page import render_html

    _write(paths.report, report_json(report))
    _write(paths.markdown, render_markdown(report))
    _write(paths.html, render_html(report, records, normalizer))


def write_comparison(comparison: Mapping[str, Any], output: str | Path) -> None:
    """Writes comparison.json, .md and .html into a folder, or beside a name that ends in `.json`.

    Raises:
        OutputError: a file cannot be written.
    """
    from .markdown import render_comparison_markdown
    from .page import render_comparison_html

    path = Path(output).expanduser()
    if path.suffix != ".json":
        path = path / "comparison.json"
    _write(path, report_json(comparison))
    _write(path.with_suffix(".md"), render_comparison_markdown(comparison))
    _write(path.with_suffix(".html"), render_comparison_html(comparison))


def report_json(report: Mapping[str, Any]) -> str:
    """The report as JSON text: indented, floats to six decimals, a line per column of clips."""
    data = _rounded(dict(report))
    columns = data.pop("clips", None)
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    if columns is None:
        return text + "\n"
    lines = ",\n".join(
        f"    {json.dumps(name)}: {json.dumps(values, ensure_ascii=False, separators=(',', ':'))}"
        for name, values in columns.items()
    )
    return f'{text[:-2]},\n  "clips": {{\n{lines}\n  }}\n}}\n'


def load_report(path: str | Path) -> dict[str, Any]:
    """Reads a report's JSON.

    Raises:
        DatasetError: it cannot be read, or is no report.
    """
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read {path}: {error}", "give a report's JSON") from error
    if not isinstance(report, dict) or report.get("kind") != KIND:
        raise DatasetError(f"{path} is not a report of speechmeta eval", "give a report's JSON")
    return report


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}", "check -o") from error


def _rounded(value: object) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value
