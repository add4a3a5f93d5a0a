"""Dependencies: every range ends somewhere, and the tested versions lie within the ranges."""

from __future__ import annotations

import re
import tomllib

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LISTS = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
DIRECT = sorted({item for items in LISTS for item in items})
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] != "#"]
TESTED = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in LINES}


@pytest.mark.parametrize("item", DIRECT)
def test_a_dependency_has_an_upper_bound_and_a_tested_version(item: str) -> None:
    requirement = Requirement(item)
    if requirement.name == "speechmeta":
        return  # an extra that takes in other extras
    operators = {specifier.operator for specifier in requirement.specifier}
    assert operators & {"<", "<=", "==", "~="}, "a new major release could break it unseen"
    tested = TESTED.get(canonicalize_name(requirement.name))
    assert tested is not None, "constraints.txt does not say which version was tested"
    assert tested in requirement.specifier, f"constraints.txt says {tested}"


def test_constraints_are_exact_versions_for_every_platform() -> None:
    names = [canonicalize_name(line.split("==")[0]) for line in LINES]
    assert names == sorted(set(names)), "in order, each once"
    for line in LINES:
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[0-9][a-z0-9.]*", line), line
        assert not re.match(r"nvidia-|cuda-|triton", line), f"{line} is for one platform only"
