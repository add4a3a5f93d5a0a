"""What all training reads: manifests, and audio as lines and rooms change it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from speechmeta.errors import DatasetError
from speechmeta.training import augment
from speechmeta.training.manifest import read_clips, read_manifest


def test_sources_that_forbid_commercial_use_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    rows = [{"audio": f"{n}.wav", "duration": 1, "commercial": n == 1} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(read_clips([path])) == 3
    assert [clip.audio.name for clip in read_clips([path], commercial_only=True)] == ["1.wav"]


def test_bad_manifests_are_named_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio": "a.wav", "duration": 1}\n{"duration": 1}\n')
    with pytest.raises(DatasetError, match="line 2"):
        list(read_manifest(path))
    with pytest.raises(DatasetError, match="cannot read"):
        list(read_manifest(tmp_path / "absent.jsonl"))
    path.write_text("\n")
    with pytest.raises(DatasetError, match="no clips"):
        read_clips([path])


def test_augmentation_keeps_what_it_should() -> None:
    rng = np.random.default_rng(0)
    time = np.arange(16_000) / 16_000
    tone = (0.5 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    high = (0.5 * np.sin(2 * np.pi * 6000 * time)).astype(np.float32)
    level = float(np.sqrt(np.mean(tone**2)))
    middle = slice(2_000, -2_000)
    assert np.sqrt(np.mean(augment.telephone_band(tone, rng)[middle] ** 2)) > 0.8 * level
    assert np.sqrt(np.mean(augment.telephone_band(high, rng)[middle] ** 2)) < 0.05 * level
    assert len(augment.change_speed(tone, 1.1)) == pytest.approx(16_000 / 1.1, abs=2)
    noisy = augment.add_noise(tone, rng.standard_normal(500).astype(np.float32), 10.0)
    noise_level = np.sqrt(np.mean((noisy - tone) ** 2))
    assert 20 * np.log10(level / noise_level) == pytest.approx(10.0, abs=0.1)
    for _ in range(40):
        made_up = augment.non_speech(rng, 0.7)
        assert made_up.shape == (11_200,)
        assert np.isfinite(made_up).all()
        assert np.abs(made_up).max(initial=0.0) <= 1.0
