"""Masked prediction: the codes, what is hidden, and a run that begins with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from training_tiny import tiny_config

from speechmeta.errors import UsageError
from speechmeta.models.speechllm.conformer import (
    LogMelConformerConfig,
    LogMelConformerModel,
    log_mel,
)
from speechmeta.training.masked import MaskedPrediction
from speechmeta.training.trainer import SpeechLLMTrainer, train


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def encoder() -> LogMelConformerModel:
    config = LogMelConformerConfig(
        num_mel_bins=20, hidden_size=32, num_attention_heads=2, intermediate_size=48,
        stages=[1, 1, 1], subsampling_channels=4,
    )  # fmt: skip
    return LogMelConformerModel(config)


def waves(samples: int = 32_000) -> torch.Tensor:
    """Noise whose colour changes every tenth of a second."""
    noise = torch.randn(2, samples)
    level = torch.rand(2, samples // 1_600 + 1).repeat_interleave(1_600, 1)[:, :samples]
    return noise * level


@pytest.mark.parametrize("samples", [4_000, 12_345, 16_000, 16_160, 16_320, 16_480])
def test_one_code_an_encoder_frame(encoder: Any, samples: int) -> None:
    heard, prediction = waves(samples), MaskedPrediction(encoder)
    bands = log_mel(heard, 20)
    codes = prediction.targets(bands, torch.ones(bands.shape[:2], dtype=torch.bool))
    assert codes.shape == encoder(heard).last_hidden_state.shape[:2]
    assert int(codes.max()) < 1024
    assert len(codes.unique()) > 2


def test_codes_follow_the_sound_and_not_its_level_or_padding(encoder: Any) -> None:
    heard, prediction = waves(), MaskedPrediction(encoder)
    bands = log_mel(heard, 20)
    frames = bands.shape[1]
    real = torch.ones(bands.shape[:2], dtype=torch.bool)
    codes = prediction.targets(bands, real)
    assert torch.equal(codes, MaskedPrediction(encoder).targets(bands, real))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codes, prediction.targets(bands, real))
    assert float((prediction.targets(bands + 0.5, real) == codes).float().mean()) > 0.99
    padded = torch.cat([bands, torch.full((2, 40, 20), -3.0)], 1)
    longer = torch.arange(frames + 40) < torch.full((2, 1), frames)
    same = prediction.targets(padded, longer)[:, : codes.shape[1]] == codes
    assert float(same.float().mean()) > 0.99
    assert float((codes[0] == codes[1]).float().mean()) < 0.2


def test_what_is_hidden_is_not_heard(encoder: Any) -> None:
    first, second = waves(), waves()
    frames = log_mel(first, 20).shape[1]
    hidden = torch.ones(2, frames, dtype=torch.bool)
    outputs = []
    for heard in (first, second):
        torch.manual_seed(1)
        outputs.append(encoder(heard, masked_frames=hidden).last_hidden_state)
    assert torch.equal(*outputs)
    hidden[:, : frames // 2] = False
    torch.manual_seed(1)
    assert not torch.equal(encoder(first, masked_frames=hidden).last_hidden_state, outputs[0])


def test_the_encoder_learns_from_audio_alone(encoder: Any) -> None:
    heard, prediction = waves(), MaskedPrediction(encoder)
    mask = torch.ones(heard.shape, dtype=torch.long)
    mask[1, 20_000:] = 0
    learned = torch.nn.ModuleList([encoder, prediction])
    optimizer = torch.optim.AdamW(learned.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = prediction(encoder, heard, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_a_run_begins_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tmp_path)
    config.optim.masked_first, config.optim.max_steps = 0.5, 4
    seen: list[set[str]] = []
    note = SpeechLLMTrainer._note

    def noted(self: SpeechLLMTrainer, losses: Any) -> None:
        seen.append(set(losses))
        note(self, losses)

    monkeypatch.setattr(SpeechLLMTrainer, "_note", noted)
    train(config)
    assert seen[:2] == [{"masked"}, {"masked"}]
    assert all("ctc" in names and "masked" not in names for names in seen[2:])
    assert len(seen) == 4
    config.model.encoder = {"model_type": "wavlm", "hidden_size": 32, "num_attention_heads": 2}
    config.output = tmp_path / "other"
    with pytest.raises(UsageError, match="masked_first does not work with wavlm"):
        train(config)
