"""The speaker projection: what it learns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from audio_files import write_wav
from tiny import tiny_speechllm
from voices import SENTENCES, speak

from speechmeta.diarization.embeddings import (
    EncoderEmbedder,
    SpeakerProjection,
    unit,
)
from speechmeta.diarization.selection import load_embedder
from speechmeta.errors import DatasetError
from speechmeta.training.speakers import equal_error, fit_projection, main

pytestmark = pytest.mark.slow


def test_projection_finds_voices_under_words_and_microphones() -> None:
    random = np.random.default_rng(0)
    voices = random.standard_normal((40, 6))
    rows, speakers, sources = [], [], []
    for index, voice in enumerate(voices):
        source = index % 2
        for _ in range(10):
            words = 3 * random.standard_normal(12)
            rows.append(np.concatenate([voice, words, [20.0 * source]]))
            speakers.append(f"s{index:02d}")
            sources.append(str(source))
    vectors = np.array(rows)
    found, rate = fit_projection(vectors, speakers, sources, layer=1, dimensions=6)
    assert rate < 0.05
    alike = found.apply(vectors[:10])
    other = found.apply(vectors[20:30])
    assert (alike @ alike.T).mean() > (alike @ other.T).mean() + found.distance / 2
    bare = unit(vectors)
    assert (bare[:10] @ bare[:10].T).mean() - (bare[:10] @ bare[20:30].T).mean() < 0.3
    with pytest.raises(DatasetError, match="speakers"):
        fit_projection(vectors[:20], speakers[:20], sources[:20], layer=1)


def test_equal_error() -> None:
    assert equal_error(np.array([0.1, 0.2]), np.array([0.8, 0.9]))[0] == 0.0
    rate, edge = equal_error(np.array([0.1, 0.2, 0.3, 0.9]), np.array([0.2, 0.7, 0.8, 1.0]))
    assert rate == pytest.approx(0.25, abs=0.13)
    assert 0.2 <= edge <= 0.7


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A manifest of flite voices at several speeds, each taken for a speaker."""
    lines = []
    for voice in ("rms", "slt", "awb", "kal16"):
        for copy in range(4):
            for number in range(3):
                wave = speak(SENTENCES[number], voice, 16000)
                wave = wave[copy * 800 :]
                name = f"{voice}{copy}_{number}.wav"
                write_wav(tmp_path / name, wave, 16000)
                lines.append(
                    {
                        "audio": name,
                        "duration": len(wave) / 16000,
                        "dataset": "flite",
                        "speaker": f"{voice}{copy}",
                        "speech": True,
                        "transcript": None,
                        "licence": "free",
                        "commercial": True,
                    }
                )
    path = tmp_path / "dev.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def save_tiny(folder: Path) -> Path:
    model, processor = tiny_speechllm(0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_training_of_a_projection(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_tiny(tmp_path / "checkpoint")
    trained = [str(recordings), "--commercial-only"]
    assert main([*trained, "--checkpoint", str(checkpoint)]) == 0
    assert "equal error rate" in capsys.readouterr().out
    assert SpeakerProjection.load(checkpoint) is not None
    from speechmeta.models.speechllm import load_model

    embedder = load_embedder("encoder", *load_model(checkpoint, local_files_only=True))
    assert isinstance(embedder, EncoderEmbedder)
    assert embedder.projection is not None
    assert main([str(tmp_path / "absent.jsonl"), "--checkpoint", str(checkpoint)]) == 1
