"""How `benchmarks/voice_encoders.py` weighs what is said of two voices."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    yield importlib.import_module("voice_encoders")
    for name in ("mono_calls", "diarization", "voice_encoders"):
        sys.modules.pop(name, None)


def windows_of(home: Any, female: list[float], voices: list[str], genders: list[str]) -> Any:
    posterior = np.stack([1 - np.array(female), np.array(female)], 1)
    return home.Windows(
        np.array(["line"] * len(voices)),
        np.array(voices),
        np.array(genders),
        np.zeros((len(voices), 2)),
        np.zeros((len(voices), 1, 2)),
        {"Gender": np.log(2 * posterior)},
    )


def test_groups_hold_windows_of_one_voice_and_leave_out_what_is_left(home: Any) -> None:
    groups = home.groups_of(np.array(["a", "b", "a", "a", "b", "a", "a"]), 2)
    assert groups.tolist() == [[0, 2], [3, 5], [1, 4]]


def test_one_gender_says_little_for_one_voice_and_two_much_against_it(home: Any) -> None:
    windows = windows_of(home, [0.99, 0.99, 0.01, 0.5], ["a", "a", "b", "c"], [""] * 4)
    pairs = (np.array([0, 0, 0]), np.array([1, 2, 3]))
    same, other, unknown = home.cue(["Gender"], 0.4)(windows, np.arange(4)[:, None], pairs)
    assert 0.6 < same < np.log(2)
    assert other < -2
    assert unknown == pytest.approx(0.0, abs=1e-9)


def test_groups_are_surer_than_windows(home: Any) -> None:
    windows = windows_of(home, [0.8, 0.8, 0.2, 0.2], ["a", "a", "b", "b"], [""] * 4)
    score = home.cue(["Gender"], 0.4)
    single = score(windows, np.arange(4)[:, None], (np.array([0]), np.array([2])))
    double = score(windows, np.array([[0, 1], [2, 3]]), (np.array([0]), np.array([1])))
    assert double < single < 0


def test_pairs_of_unknown_gender_count_only_among_all(home: Any) -> None:
    windows = windows_of(home, [0.9] * 5, list("aabcd"), ["Male", "Male", "Female", "", "Male"])
    rates = home.rates_of(lambda windows, groups, pairs: np.zeros(len(pairs[0])), windows, 1)
    found = [rates[f"pairs {kind}"] for kind in ("same", *home.PAIRS)]
    assert found == [1, 9, 2, 3]
