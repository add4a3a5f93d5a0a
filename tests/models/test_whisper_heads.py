"""Label heads on an encoder's hidden states."""

from __future__ import annotations

import pytest
import torch

from speechmeta.models.whisper_meta.heads import LabelHeads, pool_statistics

FIELDS = {"Gender": ["Male", "Female"], "Age": ["Young", "Middle-Age", "Senior"]}
LAYERS, WIDTH = 3, 8


def _heads() -> LabelHeads:
    torch.manual_seed(0)
    return LabelHeads(FIELDS, LAYERS, WIDTH).eval()


def _states(batch: int, frames: int) -> list[torch.Tensor]:
    return [torch.randn(batch, frames, WIDTH) for _ in range(LAYERS)]


def test_logits_of_each_field() -> None:
    logits = _heads()(_states(2, 11), torch.ones(2, 11, dtype=torch.bool))
    assert {field: tuple(values.shape) for field, values in logits.items()} == {
        "Gender": (2, 2), "Age": (2, 3),
    }  # fmt: skip


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_frames_without_audio_change_nothing(frames: int) -> None:
    """Silence behind a clip and the padding of a batch are not looked at, whatever they hold."""
    heads, alone = _heads(), _states(1, frames)
    padded = [torch.cat([states, torch.full((1, 9, WIDTH), 1e3)], 1) for states in alone]
    expected = heads(alone, torch.ones(1, frames, dtype=torch.bool))
    got = heads(padded, torch.arange(frames + 9)[None] < frames)
    for field in FIELDS:
        torch.testing.assert_close(got[field], expected[field])


def test_rows_of_a_batch_equal_single_clips() -> None:
    heads, states, lengths = _heads(), _states(3, 13), [13, 5, 1]
    together = heads(states, torch.arange(13)[None] < torch.tensor(lengths)[:, None])
    for row, length in enumerate(lengths):
        alone = heads(
            [layer[row : row + 1, :length] for layer in states],
            torch.ones(1, length, dtype=torch.bool),
        )
        for field in FIELDS:
            torch.testing.assert_close(together[field][row], alone[field][0])


def test_mean_and_deviation_of_each_layer() -> None:
    states = [torch.tensor([1.0, 2.0, 6.0, 50.0])[None, :, None], torch.full((1, 4, 1), 3.0)]
    pooled = pool_statistics([s.bfloat16() for s in states], torch.arange(4)[None] < 3)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(
        pooled[0, :, :, 0], torch.tensor([[3.0, (14 / 3) ** 0.5], [3.0, 0.0]]), atol=4e-3, rtol=0
    )


@pytest.mark.parametrize("field", list(FIELDS))
def test_every_layer_and_frame_counts(field: str) -> None:
    heads, states = _heads(), [layer.requires_grad_() for layer in _states(1, 8)]
    heads(states, torch.ones(1, 8, dtype=torch.bool))[field][0, 0].backward()
    for layer in states:
        assert layer.grad is not None
        assert (layer.grad.abs().sum(-1) > 0).all()
