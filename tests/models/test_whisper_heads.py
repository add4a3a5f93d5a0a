"""Label heads on an encoder's hidden states."""

from __future__ import annotations

import pytest
import torch

from speechmeta.models.whisper_meta.heads import FRAMES_TOGETHER, LabelHeads, join_frames

FIELDS = {"Gender": ["Male", "Female"], "Age": ["Young", "Middle-Age", "Senior"]}
LAYERS, WIDTH = 3, 8


def _heads(seed: int = 0) -> LabelHeads:
    torch.manual_seed(seed)
    heads = LabelHeads(FIELDS, LAYERS, WIDTH)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter)
    return heads.eval()


def _states(batch: int, frames: int) -> list[torch.Tensor]:
    return [torch.randn(batch, frames, WIDTH) for _ in range(LAYERS)]


def test_logits_of_each_field() -> None:
    mask = torch.ones(2, 11, dtype=torch.bool)
    logits = _heads()(_states(2, 11), mask)
    assert {field: tuple(values.shape) for field, values in logits.items()} == {
        "Gender": (2, 2), "Age": (2, 3),
    }  # fmt: skip


def test_frames_without_audio_change_nothing() -> None:
    """Silence behind a clip and the padding of a batch are not looked at, whatever they hold."""
    heads = _heads()
    torch.manual_seed(1)
    for frames in range(1, 2 * FRAMES_TOGETHER + 2):
        alone = _states(1, frames)
        padded = [torch.cat([states, torch.full((1, 9, WIDTH), 1e3)], 1) for states in alone]
        mask = torch.arange(frames + 9)[None] < frames
        expected = heads(alone, torch.ones(1, frames, dtype=torch.bool))
        got = heads(padded, mask)
        for field in FIELDS:
            torch.testing.assert_close(got[field], expected[field])


def test_rows_of_a_batch_equal_single_clips() -> None:
    heads = _heads()
    states = _states(3, 13)
    lengths = [13, 5, 1]
    mask = torch.arange(13)[None] < torch.tensor(lengths)[:, None]
    together = heads(states, mask)
    for row, length in enumerate(lengths):
        alone = heads(
            [layer[row : row + 1, :length] for layer in states],
            torch.ones(1, length, dtype=torch.bool),
        )
        for field in FIELDS:
            torch.testing.assert_close(together[field][row], alone[field][0])


def test_joined_frames_are_averages_of_audio_alone() -> None:
    states = [torch.arange(6.0)[None, :, None].expand(1, 6, 2)]
    together, groups = join_frames(states, torch.arange(6)[None] < 5)
    assert groups.tolist() == [[True, True]]
    assert together[0, 0, :, 0].tolist() == [1.5, 4.0]


def test_hidden_values_are_standardised_with_what_is_saved() -> None:
    heads, mask = _heads(), torch.ones(1, 9, dtype=torch.bool)
    states = _states(1, 9)
    expected = heads(states, mask)
    heads.center.copy_(torch.randn(LAYERS, WIDTH))
    heads.scale.copy_(torch.rand(LAYERS, WIDTH) * 100 + 1)
    moved = [
        layer * heads.scale[number] + heads.center[number] for number, layer in enumerate(states)
    ]
    other = _heads(seed=5)
    other.load_state_dict(heads.state_dict())
    for field, values in other(moved, mask).items():
        torch.testing.assert_close(values, expected[field], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("field", list(FIELDS))
def test_every_layer_and_frame_counts(field: str) -> None:
    heads, states = _heads(), [layer.requires_grad_() for layer in _states(1, 8)]
    heads(states, torch.ones(1, 8, dtype=torch.bool))[field][0, 0].backward()
    for layer in states:
        assert layer.grad is not None
        assert (layer.grad.abs().sum(-1) > 0).all()
