"""MkDocs hook: the parts of pages that are made from code and from committed results.

A page says where: `<!-- generated: command line -->`, `<!-- generated: measurements -->`.
They are made at every build, so that they cannot be out of date.
"""

from __future__ import annotations

import ast
import html
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[2]

_MARK = re.compile(r"<!-- generated: ([a-z ]+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts each part in the place of its mark."""

    def made(match: re.Match[str]) -> str:
        if match[1] not in PARTS:
            raise PluginError(f"nothing generates {match[1]!r}; there are: {', '.join(PARTS)}")
        return PARTS[match[1]]()

    return _MARK.sub(made, markdown)


def command_line() -> str:
    """Every command with its arguments and options, by typer's own generator."""
    command = "-m", "typer", "speechmeta.cli.app", "utils", "docs", "--name", "speechmeta"
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise PluginError(f"typer makes no page of the commands:\n{done.stderr}")
    # The page has a title already, and what is said of every command is said once.
    lines = done.stdout.splitlines()[1:]
    return "\n".join(line for line in lines if "--help`: Show this message" not in line)


def measurements() -> str:
    """A table of the reports of `speechmeta eval`, and every result of `benchmarks/`."""
    return "\n".join([*_reports(), *_comparisons(), *_results()])


def _reports() -> Iterator[str]:
    rows = {}
    for path in sorted((ROOT / "eval" / "results").glob("*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        if report.get("kind") == "speechmeta-eval":
            rows[path.stem] = report
    yield "## Words and labels\n"
    yield (
        "Each row is one run of `speechmeta eval`; its report has the command, intervals, groups "
        "and sources.\n"
    )
    yield (
        "| report | condition | clips | words wrong % | invented words | speech right % | gender % "
        "| age UAR % | accent UAR % | emotion UAR % | valid JSON % |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for name, report in rows.items():
        # A system of another kind gives less: a null stands for what it does not give.
        labels = report.get("labels") or {}
        silent = report.get("non_speech") or {}
        speech = report.get("speech_activity") or {}
        valid = report.get("valid_json") or {}
        cells = [
            f"[{name}](../eval/results/{name}.md)",
            report.get("condition") or "as recorded",
            f"{report['n']:,}",
            _percent(report.get("wer")),
            f"{silent['with_words']} of {silent['n']} clips" if silent else "",
            _percent(speech.get("accuracy")),
            _percent(labels.get("Gender", {}).get("accuracy")),
            *(_percent(labels.get(name, {}).get("uar")) for name in ("Age", "Accent", "Emotion")),
            _percent(valid.get("share")),
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _comparisons() -> Iterator[str]:
    """Of each `speechmeta eval compare` the systems with what both words and ears gave."""
    for path in sorted((ROOT / "eval" / "results").glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("kind") != "speechmeta-eval-comparison":
            continue
        yield f"### Side by side on {found['n']:,} clips\n"
        yield (
            f"[All measures, differences, data sets and groups](../eval/results/{path.stem}.md). "
            "In brackets the 95 % interval.\n"
        )
        yield "| system | words wrong % | speech right % |"
        yield "|---|---|---|"
        for place, system in enumerate(found["systems"]):
            cells = [system["name"]]
            for measure in ("wer", "SpeechActivity_accuracy"):
                values = found["measures"].get(measure, {}).get("values") or []
                shown = values[place] if values else None
                limits = (shown or {}).get("interval")
                spread = f" ({' to '.join(map(_percent, limits))})" if limits else ""
                cells.append(_percent(shown["value"]) + spread if shown else "")
            yield f"| {' | '.join(cells)} |"
        yield ""


def _results() -> Iterator[str]:
    yield "## Speed, memory and parts\n"
    yield (
        "As the scripts in `benchmarks/` printed them; the first lines say the command and the "
        "machine.\n"
    )
    scripts = {path.stem.replace("_", "-"): path for path in (ROOT / "benchmarks").glob("*.py")}
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.txt")):
        fitting = [name for name in scripts if path.stem.startswith(name)]
        if not fitting:
            raise PluginError(f"no script in benchmarks/ makes {path.name}")
        script = scripts[max(fitting, key=len)]
        said = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
        lines = path.read_text(encoding="utf-8").splitlines()
        notes = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
        shown = [line for line in lines[len(notes) :] if not line.startswith("{")]
        text = "\n".join(shown).strip("\n") or lines[-1]  # the last line is for machines
        note = html.escape(" ".join(line.lstrip("# ") for line in notes)).replace("*", "&#42;")
        yield f"### {path.stem}\n\n{said.splitlines()[0]}\n\n{note}\n\n```text\n{text}\n```\n"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


PARTS = {"command line": command_line, "measurements": measurements}
