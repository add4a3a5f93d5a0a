"""Mutated recordings raise nothing that is not ours, and the script would say so if they did."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from speechmeta.errors import AudioError

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "mutate.py"


@pytest.fixture(scope="module")
def mutate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutate"] = module
    spec.loader.exec_module(module)
    return module


def test_no_mutant_raises_a_foreign_error(mutate: ModuleType, tmp_path: Path) -> None:
    found = mutate.through_the_api(140, 7, tmp_path, tmp_path / "kept")
    kinds = {kind for counts in found.values() for kind in counts}
    assert kinds == {"read", "refused"}
    assert sum(sum(counts.values()) for counts in found.values()) == 140
    assert not (tmp_path / "kept").exists()


def test_a_foreign_error_is_counted_as_one(mutate: ModuleType) -> None:
    def fails() -> None:
        raise OSError(22, "Invalid argument")

    def refuses() -> None:
        raise AudioError("damaged")

    assert mutate.outcome(fails, AudioError) == "foreign OSError"
    assert mutate.outcome(refuses, AudioError) == "refused"
    assert mutate.outcome(lambda: None, AudioError) == "read"


def test_mutants_follow_the_seed_and_differ_from_their_source(mutate: ModuleType) -> None:
    data = bytes(range(256)) * 8
    first = [mutate.mutated(data, random.Random(number)) for number in range(20)]
    assert first == [mutate.mutated(data, random.Random(number)) for number in range(20)]
    assert sum(mutant != data for mutant in first) > 18
