"""The voice encoder: what goes in, what comes out, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_clips

from speechmeta.diarization.selection import PACKAGED
from speechmeta.diarization.voice_encoder import VoiceEmbedder, VoiceEncoder, mel_frames
from speechmeta.errors import ModelError


def random_embedder(seed: int = 0) -> VoiceEmbedder:
    torch.manual_seed(seed)
    matrix = np.random.default_rng(seed).standard_normal((256, 12))
    return VoiceEmbedder(VoiceEncoder(), np.full(256, 0.01), matrix, 0.4)


def test_clips_of_all_lengths_are_embedded_alone_or_together() -> None:
    embedder = random_embedder()
    clips = [*tiny_clips(4, seconds=(0.5, 1.5)), np.ones(3, np.float32), np.zeros(900, np.float32)]
    together = embedder.embed(clips)
    assert together.shape == (6, 12)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0)
    alone = np.concatenate([embedder.embed([clip]) for clip in clips])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    # The level of a recording says nothing of a voice.
    quiet = embedder.embed([0.01 * clips[0]])
    np.testing.assert_allclose(quiet[0], together[0], atol=1e-4)
    assert embedder.embed([]).shape == (0, 12)


def test_spectra_are_frames_of_ten_milliseconds() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32)
    mels = mel_frames(torch.from_numpy(tone)[None])
    assert mels.shape == (1, 101, 40)
    assert int(mels[0, 50].argmax()) == pytest.approx(6, abs=2), "440 Hz lies low"


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    embedder = random_embedder()
    file = tmp_path / "speakers.safetensors"
    embedder.save(file, {"origin": "a test"})
    again = VoiceEmbedder.load(file)
    assert again.distance == 0.4
    clips = tiny_clips(3)
    np.testing.assert_allclose((again.embed(clips) * embedder.embed(clips)).sum(1), 1.0, atol=1e-3)


def test_a_file_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no voice encoder"):
        VoiceEmbedder.load(tmp_path / "absent.safetensors")
    (tmp_path / "nonsense.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="holds no voice encoder"):
        VoiceEmbedder.load(tmp_path / "nonsense.safetensors")


def test_the_packaged_file_is_small_and_says_where_it_is_from() -> None:
    from safetensors import safe_open

    assert PACKAGED.stat().st_size < 6_000_000
    with safe_open(str(PACKAGED), framework="pt") as opened:
        notes = opened.metadata()
    assert notes["licence"] == "Apache-2.0"
    assert "esemblyzer" in notes["origin"]
