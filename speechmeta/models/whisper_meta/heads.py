"""Label heads: what the layers of a speech encoder say of a whole clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

FRAMES_TOGETHER = 4
"""Encoder frames (20 ms each) that are averaged before anything else; traits change more slowly."""

POOLINGS = 4
"""Views of a clip for each field, each with its own mix of layers and attention."""

_EPSILON = 1e-5


class LabelHeads(nn.Module):
    """One head for each field on all hidden states of an encoder.

    A head looks at a clip in several ways at once (`POOLINGS`). Each way mixes the layers, as
    SUPERB does (Yang et al. 2021, arXiv 2105.01051), and pools the frames that hold audio by
    attention to their mean and deviation (Okabe et al. 2018, arXiv 1803.10963). One linear layer
    reads all of them; its logits carry neither temperature nor prior, which belong to the config.

    Attributes:
        center, scale: (layers, width), by which hidden values are standardised first: those of
            Whisper differ by orders of magnitude from one dimension to another. They are
            measured on the training clips and saved with the weights.
    """

    center: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        fields: Mapping[str, Sequence[str]],
        num_layers: int,
        width: int,
        poolings: int = POOLINGS,
        dropout: float = 0.0,
    ) -> None:
        """
        Args:
            fields: the labels of each field, in the order of its logits.
            num_layers: hidden states that the encoder gives: its layers and what the first reads.
            width: of a hidden state.
            poolings: views of a clip for each field.
            dropout: of what the linear layers read, in training.
        """
        super().__init__()
        self.register_buffer("center", torch.zeros(num_layers, width))
        self.register_buffer("scale", torch.ones(num_layers, width))
        self.heads = nn.ModuleDict(
            {
                field: FieldHead(len(labels), num_layers, width, poolings, dropout)
                for field, labels in fields.items()
            }
        )

    def forward(
        self, hidden_states: Sequence[torch.Tensor], audio_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Logits of each field, (batch, labels).

        Args:
            hidden_states: of each layer, (batch, frames, width).
            audio_mask: (batch, frames) bool, true where a clip has audio; each row has some.
        """
        together, lengths = join_frames(hidden_states, audio_mask)
        return self.read(together, lengths)

    def read(self, together: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """As `forward`, from what `join_frames` returned."""
        standard = (together - self.center[:, None]) / self.scale[:, None]
        return {field: head(standard, mask) for field, head in self.heads.items()}


class FieldHead(nn.Module):
    """The head of one field.

    Attributes:
        mix: (poolings, layers), softmax over the layers.
        attention: (poolings, width), product with a frame: how much it counts, before softmax.
        linear: from mean and deviation of all poolings to the labels.
    """

    def __init__(
        self, labels: int, num_layers: int, width: int, poolings: int, dropout: float
    ) -> None:
        super().__init__()
        # Different starts keep the poolings from learning the same.
        self.mix = nn.Parameter(torch.randn(poolings, num_layers))
        self.attention = nn.Parameter(torch.randn(poolings, width) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(poolings * 2 * width, labels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, standard: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(batch, labels) from (batch, layers, frames, width) and (batch, frames) bool."""
        mixed = torch.einsum("pl,blfd->bpfd", self.mix.softmax(-1), standard)
        score = torch.einsum("bpfd,pd->bpf", mixed, self.attention)
        score = score.masked_fill(~mask[:, None], torch.finfo(score.dtype).min)
        share = score.softmax(-1)
        mean = torch.einsum("bpf,bpfd->bpd", share, mixed)
        spread = torch.einsum("bpf,bpfd->bpd", share, (mixed - mean[:, :, None]).square())
        pooled = torch.cat([mean, (spread + _EPSILON).sqrt()], dim=-1)
        logits: torch.Tensor = self.linear(self.dropout(pooled.flatten(1)))
        return logits


def join_frames(
    hidden_states: Sequence[torch.Tensor], audio_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Averages over every `FRAMES_TOGETHER` frames, of those that hold audio.

    Args:
        hidden_states, audio_mask: as `LabelHeads.forward` takes them.

    Returns:
        (batch, layers, groups, width), and (batch, groups) bool: the groups with any audio.
    """
    missing = -audio_mask.shape[1] % FRAMES_TOGETHER
    mask = nn.functional.pad(audio_mask, (0, missing)).unflatten(1, (-1, FRAMES_TOGETHER))
    counts = mask.sum(-1)
    weights = mask / counts.clamp(min=1)[..., None]
    groups = [
        torch.einsum(
            "bgf,bgfd->bgd",
            weights.to(states.dtype),
            nn.functional.pad(states, (0, 0, 0, missing)).unflatten(1, (-1, FRAMES_TOGETHER)),
        )
        for states in hidden_states
    ]
    return torch.stack(groups, dim=1), counts > 0


__all__ = ["FRAMES_TOGETHER", "POOLINGS", "FieldHead", "LabelHeads", "join_frames"]
