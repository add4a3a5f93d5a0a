"""docs/architecture.md is true: data go one way, no import circles, no two things of one name."""

from __future__ import annotations

import ast
import importlib
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"

ROOMS = (
    (
        "version",
        "errors",
        "schema",
        "settings",
        "visible",
        "telephone",
        "memory",
        "checkpoints",
        "trust",
    ),
    ("audio",),
    ("segmentation",),
    ("diarization",),
    ("decoding",),
    ("models",),
    ("pipeline",),
    ("writers",),
    ("web_safety", "store"),
    ("batch", "chat", "training"),
    ("server",),
    ("app",),
    ("eval",),
    ("cli",),
)
"""From left to right; a module imports from its own room and from those to the left.

Those of one group know nothing of each other, but for the first, where small modules without
a room stand."""

LEVEL = {room: level for level, group in enumerate(ROOMS) for room in group}

TWICE = {
    "base": "what all of a room's modules share",
    "loading": "audio.loading reads recordings; the models' load checkpoints, each its family's",
    "report": "pipeline.report makes it, pipeline.redaction.report takes out what is private",
    "structured": "decoding.structured writes by any JSON Schema, writers.structured lays out JSON",
    "options": "each room's own: decoding, calls and models, measurements, shared flags",
    "types": "each room's own",
    "app": "speechmeta.app is the page, speechmeta.cli.app the typer application",
}
"""Names of modules that may recur, and why no reader takes one for the other.

Beside these, families of models hold the same parts under the same names, and a command has
the name of what it calls."""


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name when installed."""
    found = {}
    for folder, prefix in (
        ("speechmeta", "speechmeta"),
        ("cli", "speechmeta.cli"),
        ("eval", "speechmeta.eval"),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([prefix, *(part for part in parts if part != "__init__")])] = path
    return found


@cache
def imports(name: str) -> tuple[tuple[str, int, bool], ...]:
    """(module, line, for types only) of what a module imports of the package, in functions too."""
    path = modules()[name]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typed = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return tuple(
        (target, line, line in typed)
        for target, line in _targets(tree, package)
        if target in modules() and target != name and "." in target
    )


def _targets(tree: ast.AST, package: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")
            kept = above[: len(above) - node.level + 1] if node.level else []
            base = ".".join([*kept, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in modules() else base), node.lineno


def room(name: str) -> str:
    return name.split(".")[1]


def test_every_module_stands_in_a_room_of_the_page() -> None:
    rooms = {room(name) for name in modules() if "." in name}
    assert rooms <= set(LEVEL), "give it a place in ROOMS and in docs/architecture.md"


def test_imports_point_to_the_left() -> None:
    wrong = [
        f"{name}, line {line}, imports {target}"
        for name in modules()
        if "." in name
        for target, line, _ in imports(name)
        if room(target) != room(name)
        and (
            LEVEL[room(target)] > LEVEL[room(name)]
            or (LEVEL[room(target)] == LEVEL[room(name)] and LEVEL[room(name)] > 0)
        )
    ]
    assert wrong == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {
        name: {target for target, _, typed in imports(name) if not typed}
        for name in modules()
        if "." in name
    }
    settled: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in settled:
            for target in sorted(graph[name]):
                visit(target, (*above, name))
            settled.add(name)

    for name in graph:
        visit(name, ())


def test_no_two_modules_have_a_name_that_a_reader_could_confuse() -> None:
    places = defaultdict(list)
    for name, path in modules().items():
        if path.name not in ("__init__.py", "__main__.py") and room(name) != "cli":
            family = name.rpartition(".")[0] if room(name) == "models" else "elsewhere"
            places[name.rpartition(".")[2]].append((name, family))
    confused = {
        short: [name for name, _ in found]
        for short, found in places.items()
        if len(found) > 1
        and short not in TWICE
        and len({family for _, family in found}) < len(found)
    }
    assert confused == {}


@pytest.mark.parametrize("heading", ["analyze", "batch"])
def test_the_steps_of_the_page_are_there_and_under_a_dozen(heading: str) -> None:
    text = PAGE.read_text(encoding="utf-8").partition(f"## The path of `{heading}`")[2]
    steps = re.findall(r"^\d+\. `([\w.]+):([\w.]+)`", text.partition("\n## ")[0], re.MULTILINE)
    assert 3 < len(steps) < 12
    for module, name in steps:
        found = importlib.import_module(f"speechmeta.{module}")
        for part in name.split("."):
            found = getattr(found, part)


def test_the_page_lists_the_rooms_in_their_order() -> None:
    text = PAGE.read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
    rows = [name for cell in cells for name in re.findall(r"`(\w+)", cell)]
    listed = [name for name in rows if name in LEVEL]
    assert [LEVEL[name] for name in listed] == sorted(LEVEL[name] for name in listed)
    here = {room(name) for name in modules() if "." in name}
    assert here - set(listed) <= {"version", "checkpoints"}
