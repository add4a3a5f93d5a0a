"""What is installed: every package is listed, and both rooms at the top level are found."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from conftest import LONGEST, ROOT, RunCli

import speechmeta

pytestmark = pytest.mark.slow

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = {"cli": ROOT / "cli", "eval": ROOT / "eval"}


def test_every_package_is_listed() -> None:
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "speechmeta").rglob("__init__.py")
    }
    for name, folder in ROOMS.items():
        for path in folder.rglob("__init__.py"):
            parts = path.parent.relative_to(folder).parts
            found.add(".".join(["speechmeta", name, *parts]))
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == found


def test_data_files_are_listed() -> None:
    listed: set[Path] = set()
    for package, patterns in SETTINGS["tool"]["setuptools"]["package-data"].items():
        name = package.removeprefix("speechmeta.")
        folder = ROOMS.get(name, ROOT.joinpath(*package.split(".")))
        for pattern in patterns:
            matches = set(folder.glob(pattern))
            assert matches or "*" in pattern, f"{package}: there is no {pattern}"
            listed |= matches
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: what is tracked is not known")
    command = ["git", "ls-files", "--", "speechmeta", *ROOMS]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for path in (ROOT / line for line in tracked.splitlines()):
        if path.is_relative_to(ROOT / "eval" / "results"):
            continue  # reports of this repository, not data of the package
        if path.suffix != ".py" and not path.name.startswith("."):
            assert path in listed, f"{path} would not be installed"


@pytest.mark.parametrize("name", list(ROOMS))
def test_rooms_are_found_under_their_installed_names(name: str) -> None:
    module = importlib.import_module(f"speechmeta.{name}")
    assert module.__file__ is not None
    assert Path(module.__file__).parent.name == name
    link = ROOT / "typings" / "speechmeta" / name
    assert link.resolve() == ROOMS[name], "mypy finds the room by this link"


def test_nothing_in_the_package_imports_the_rooms() -> None:
    for path in (ROOT / "speechmeta").rglob("*.py"):
        text = path.read_text()
        assert "speechmeta.cli" not in text, path
        assert "speechmeta.eval" not in text, path


def test_version_is_in_the_changelog() -> None:
    assert f"## [{speechmeta.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


COMES_WITH = {
    "huggingface-hub": "transformers",
    "tokenizers": "transformers",
    "outlines-core": "outlines",
    "pyyaml": "transformers",
    "pydantic-core": "pydantic",
    "scipy": "scikit-learn",
    "starlette": "fastapi",
    "markupsafe": "jinja2",
    "fsspec": "torch",
}
"""Distributions that are imported and always come with a declared one."""

ON_REQUEST = {"bitsandbytes", "torchao"}
"""Imported only where the user asks for them; without them an error says what to install."""


def test_every_import_is_declared() -> None:
    """What happens to be installed on a developer's machine may be absent elsewhere."""
    project = SETTINGS["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.split(r"[<>=\[;]", item)[0].lower() for items in lists for item in items}
    owners = packages_distributions()
    for folder in (ROOT / "speechmeta", *ROOMS.values()):
        for path in folder.rglob("*.py"):
            for name in imported(path) - set(sys.stdlib_module_names) - {"speechmeta"}:
                distributions = {owner.lower().replace("_", "-") for owner in owners.get(name, [])}
                if not distributions:
                    continue  # optional and not installed here
                wanted = distributions | {COMES_WITH.get(owner, "") for owner in distributions}
                assert wanted & (declared | ON_REQUEST), (
                    f"{path} imports {name}, which nothing declares"
                )


EXTRAS = {"accelerate", "gradio", "peft", "pyarrow", "ray"}


def test_what_comes_with_an_extra_is_imported_where_it_is_used() -> None:
    """Without the extra, everything else works and an error says what to install."""
    for folder in (ROOT / "speechmeta", *ROOMS.values()):
        for path in folder.rglob("*.py"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    assert not imported_by(node) & EXTRAS, path


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("pyarrow", "parquet", ["analyze", "absent.wav", "-f", "parquet", "-o", "out"]),
        ("pyarrow", "parquet", ["batch", ".", "-o", "out", "--parquet"]),
        ("peft", "train", ["train", "config.yaml"]),
        ("accelerate", "train", ["train", "qformer", "m.jsonl", "--model", "m", "-o", "out"]),
        ("gradio", "app", ["app"]),
        ("fastapi", "server", ["serve"]),
        ("ray", "ray", ["batch", ".", "-o", "out", "--engine", "ray"]),
    ],
)
def test_a_missing_extra_is_named_before_any_work(
    module: str,
    extra: str,
    arguments: list[str],
    run_cli: RunCli,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("model: m\noutput: x\ndata: {manifests: [a.jsonl]}\n")
    monkeypatch.setitem(sys.modules, module, None)
    result = run_cli(*arguments)
    assert result.code == 2
    assert f"pip install 'speechmeta[{extra}]'" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert not (tmp_path / "out").exists()


def imported_by(node: ast.Import | ast.ImportFrom) -> set[str]:
    """Top-level names of one statement's absolute imports."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {node.module.split(".")[0]} if node.level == 0 and node.module else set()


def imported(path: Path) -> set[str]:
    """Top-level names of all absolute imports of a file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= imported_by(node)
    return names


def test_the_longest_files_of_tests_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []
