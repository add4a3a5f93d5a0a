"""The recipe of the voice encoder: which clips it takes, what it makes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from audio_files import write_wav

from speechmeta.diarization.voice_encoder import VoiceEmbedder, VoiceEncoder
from speechmeta.errors import UsageError
from speechmeta.training.manifest import read_manifest
from speechmeta.training.voice_windows import speaker_windows
from speechmeta.training.voices import (
    ClipOptions,
    choose,
    is_held_out,
    is_voices_recipe,
    published_encoder,
    read_voices_recipe,
    run_voices,
)

SPEAKERS = 12


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two hums of each of twelve speakers, each at a pitch of its own."""
    lines = []
    for speaker in range(SPEAKERS):
        for number in range(2):
            time = np.arange(round((1.2 + 0.6 * number) * 16000)) / 16000
            wave = sum(np.sin(2 * np.pi * (90 + 17 * speaker) * k * time) / k for k in range(1, 9))
            name = f"{speaker}_{number}.wav"
            write_wav(tmp_path / name, np.asarray(0.1 * wave, dtype=np.float32), 16000)
            lines.append(
                {"audio": name, "duration": len(time) / 16000, "dataset": "hum",
                 "speaker": f"s{speaker:02d}", "speech": True, "commercial": speaker != 3}
            )  # fmt: skip
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def save_recipe(folder: Path, **changes: object) -> Path:
    torch.manual_seed(0)
    state = {**VoiceEncoder().state_dict(), "similarity_weight": torch.ones(1)}
    torch.save({"model_state": state}, folder / "pretrained.pt")
    values: dict[str, object] = {
        "family": "speakers", "start": str(folder / "pretrained.pt"),
        "train": str(folder / "train.jsonl"), "work": str(folder / "work"),
        "output": str(folder / "made" / "speakers.safetensors"), "distance": 0.5,
        "share": 0.4, "most": 12.0, "apart": 5.0, "origin": "a test", "licence": "Apache-2.0",
        "window_seconds": [0.5], "windows": 2, "dimensions": 8, "clips": {"shortest": 1.0},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(values | changes))
    return path


def test_clips_of_known_speakers_that_may_be_used(manifest: Path) -> None:
    clips = list(read_manifest(manifest))
    chosen = choose(clips, ClipOptions(shortest=1.5), 0)
    assert len(chosen) == SPEAKERS - 1
    assert all(clip.commercial and clip.duration > 1.5 for clip in chosen)
    assert len(choose(clips, ClipOptions(shortest=1.0, speakers=4), 0)) == 8
    assert choose(clips, ClipOptions(left_out=("hum",), shortest=1.0), 0) == []
    # A second clip is taken only where the first one is not long enough.
    assert len(choose(clips, ClipOptions(shortest=1.0, seconds=1.0), 0)) == SPEAKERS - 1


def test_speakers_are_heard_directly_and_over_a_telephone(manifest: Path) -> None:
    clips = choose(read_manifest(manifest), ClipOptions(shortest=1.0), 0)
    windows = list(speaker_windows(clips, 0.5, 2, 0))
    assert len(windows) == 4 * (SPEAKERS - 1)
    assert [window.telephone for window in windows[:4]] == [False, False, True, True]
    assert len({window.line for window in windows}) == 2
    for window in windows:
        assert window.wave.shape == (8000,)
        assert 0.01 < float(np.sqrt(np.square(window.wave).mean())) < 0.2
    again = list(speaker_windows(clips, 0.5, 2, 0))
    np.testing.assert_array_equal(windows[5].wave, again[5].wave)
    assert list(speaker_windows(clips, 9.0, 2, 0)) == []


def test_held_out_speakers_are_not_learnt_from(manifest: Path) -> None:
    clips = list(read_manifest(manifest))
    options = ClipOptions(shortest=1.0, held_out=3)
    chosen = {clip.speaker for clip in choose(clips, options, 0)}
    held = {clip.speaker for clip in clips if is_held_out(clip, options)}
    assert held
    assert chosen == {clip.speaker for clip in clips if clip.commercial} - held


def test_a_recipe_makes_the_file(manifest: Path, tmp_path: Path) -> None:
    path = save_recipe(tmp_path)
    assert is_voices_recipe(path)
    made = VoiceEmbedder.load(run_voices(read_voices_recipe(path)))
    assert made.distance == 0.5
    assert made.matrix.shape[0] == 256
    assert made.spread is not None
    assert (made.spread.share, made.spread.most, made.spread.apart) == (0.4, 12.0, 5.0)
    assert made.spread.between.shape == made.matrix.shape[1:]
    assert made.matrix.shape[1] <= 8
    assert made.embed([np.ones(8000, np.float32)]).shape == (1, made.matrix.shape[1])


def test_recipes_that_do_not_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="spread"):
        read_voices_recipe(save_recipe(tmp_path, spread=3))
    with pytest.raises(UsageError, match="cannot read"):
        read_voices_recipe(tmp_path / "absent.yaml")
    with pytest.raises(UsageError, match="does not hold the weights"):
        published_encoder(tmp_path / "absent.whl")
    (tmp_path / "nonsense.whl").write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="does not hold the weights"):
        published_encoder(tmp_path / "nonsense.whl")
    torch.save({"model_state": {}}, tmp_path / "empty.pt")
    with pytest.raises(UsageError, match="does not hold the weights"):
        published_encoder(tmp_path / "empty.pt")
