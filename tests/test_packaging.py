"""What is installed: every package is listed, and both rooms at the top level are found."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

import speechmeta

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
            assert matches, f"{package}: {pattern} matches nothing"
            listed |= matches
    for folder in (ROOT / "speechmeta", *ROOMS.values()):
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
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
