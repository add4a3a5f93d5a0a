"""Label heads: what the layers of a speech encoder say of a whole clip."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

_EPSILON = 1e-5


class LabelHeads(nn.Module):
    """One linear layer for each field on the statistics of all hidden states of an encoder.

    Statistics pooling (Snyder et al. 2018, x-vectors): the mean and the deviation of every
    dimension of every layer over the frames that hold audio. So a field chooses among the layers
    by its weights; the first ones know most about a voice. Logits carry neither temperature nor
    prior, which belong to the config.
    """

    def __init__(self, fields: Mapping[str, Sequence[str]], num_layers: int, width: int) -> None:
        """
        Args:
            fields: the labels of each field, in the order of its logits.
            num_layers: hidden states that the encoder gives: its layers and what the first reads.
            width: of a hidden state.
        """
        super().__init__()
        self.linear = nn.ModuleDict(
            {
                field: nn.Linear(num_layers * 2 * width, len(labels))
                for field, labels in fields.items()
            }
        )

    def forward(
        self,
        hidden_states: Sequence[torch.Tensor],
        audio_mask: torch.Tensor,
        fields: Collection[str] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Logits of each field, (batch, labels).

        Args:
            hidden_states: of each layer, (batch, frames, width).
            audio_mask: (batch, frames) bool, true where a clip has audio; each row has some.
            fields: whose layers run; None for all.
        """
        pooled = pool_statistics(hidden_states, audio_mask).flatten(1)
        return {
            field: linear(pooled)
            for field, linear in self.linear.items()
            if fields is None or field in fields
        }


def pool_statistics(
    hidden_states: Sequence[torch.Tensor], audio_mask: torch.Tensor
) -> torch.Tensor:
    """Mean and deviation over the frames that hold audio, float32.

    Args:
        hidden_states, audio_mask: as `LabelHeads.forward` takes them.

    Returns:
        (batch, layers, 2, width).
    """
    mask = audio_mask[..., None].float()
    share = mask / mask.sum(1, keepdim=True)
    rows = []
    for states in hidden_states:
        frames = states.float()
        mean = (frames * share).sum(1)
        spread = ((frames - mean[:, None]).square() * share).sum(1)
        rows.append(torch.stack([mean, (spread + _EPSILON).sqrt()], dim=1))
    return torch.stack(rows, dim=1)


__all__ = ["LabelHeads", "pool_statistics"]
