"""The recipe of the overlap detector: its mixtures, what it makes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from audio_files import write_wav

from speechmeta.diarization.overlap import FRAME, OverlapDetector
from speechmeta.errors import UsageError
from speechmeta.training.mixtures import (
    active,
    is_overlap_recipe,
    mixture,
    read_overlap_recipe,
    run_overlap,
)

pytestmark = pytest.mark.slow

RATE = 16000


def hum(pitch: float, seconds: float) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    wave = np.sum([np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 9)], axis=0)
    return np.asarray(0.1 * wave, dtype=np.float32)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    lines = []
    for speaker in range(8):
        write_wav(tmp_path / f"{speaker}.wav", hum(90 + 17 * speaker, 1.5), RATE)
        lines.append(
            {"audio": f"{speaker}.wav", "duration": 1.5, "dataset": "hum", "speaker": f"s{speaker}",
             "speech": True, "commercial": speaker != 0}
        )  # fmt: skip
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    write_wav(tmp_path / "noise.wav", noise, RATE)
    lines.append({"audio": "noise.wav", "duration": 1.0, "dataset": "noise", "speaker": None,
                  "speech": False, "commercial": True})  # fmt: skip
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    values = {
        "family": "overlap", "train": str(tmp_path / "train.jsonl"), "work": str(tmp_path / "work"),
        "output": str(tmp_path / "made" / "overlap.safetensors"), "threshold": 0.4,
        "origin": "a test", "licence": "Apache-2.0", "examples": 6, "seconds": 2.0, "passes": 1,
        "batch": 3, "held_out": 0.34, "clips": {"shortest": 1.0},
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(values))
    return path


def test_the_recipe_makes_a_detector(recipe: Path) -> None:
    assert is_overlap_recipe(recipe)
    made = run_overlap(read_overlap_recipe(recipe))
    found = OverlapDetector.load(made)
    assert found.threshold == pytest.approx(0.4)
    assert found.probabilities(hum(100, 2.0)).shape == (50,)


def test_too_few_speakers(recipe: Path) -> None:
    manifest = recipe.parent / "train.jsonl"
    manifest.write_text("".join(line + "\n" for line in manifest.read_text().splitlines()[:4]))
    with pytest.raises(UsageError, match="too few speakers"):
        run_overlap(read_overlap_recipe(recipe))


def test_where_somebody_talks() -> None:
    wave = np.zeros(2 * RATE, np.float32)
    wave[RATE // 2 : RATE] = hum(120, 0.5)
    found = active(wave)
    assert found.shape == (50,)
    assert found[13:24].all()
    assert not found[:12].any()
    assert not found[26:].any()
    assert not active(np.zeros(FRAME * 4, np.float32)).any()


def test_two_voices_are_marked_where_both_talk() -> None:
    voices = {"hum": {f"s{n}": [hum(90 + 20 * n, 3.0)] for n in range(4)}}
    shares = []
    for number in range(30):
        wave, both = mixture(voices, [], 4.0, np.random.default_rng(number))
        assert wave.shape == (4 * RATE,)
        assert both.shape == (100,)
        assert np.isfinite(wave).all()
        shares.append(both.mean())
    # Some examples have no overlap, none has nothing else.
    assert min(shares) == 0
    assert 0.05 < np.mean(shares) < 0.6
