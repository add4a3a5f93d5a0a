"""The comparison of checkpoints runs on a tiny one and prints the promised line."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import pytest
from training_tiny import tiny_config

from speechmeta.training.trainer import train


def test_last_line_is_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    checkpoints = importlib.import_module("checkpoints")
    config = tiny_config(tmp_path)
    config.optim.max_steps = 1
    final, manifest = train(config), str(config.data.manifests[0])
    capsys.readouterr()
    arguments = ["checkpoints.py", str(final), "--train", manifest, "--dev", manifest]
    monkeypatch.setattr(sys, "argv", arguments)
    assert checkpoints.main() == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])[str(final)]
    # The same clips for both.
    assert result["ctc"]["train"] == result["ctc"]["dev"]
    assert 0 < result["ctc"]["dev"]["noise"] < math.inf
    gender = result["labels"]["Gender"]
    assert gender["n"] == 6
    assert set(gender["recalls"]) == {"Female", "Male"}
    assert gender["uar"] == pytest.approx(sum(gender["recalls"].values()) / 2, abs=1e-3)
    arguments[-1] = str(tmp_path / "absent.jsonl")
    assert checkpoints.main() == 0
    assert "skipped" in capsys.readouterr().out
