"""The product with a large vocabulary at a fraction of its cost: every logit in 8 bits, and those
that can matter in full.

In float32 on a CPU the last product of a pass reads the whole embedding table, for Whisper `base`
106 MB, which takes longer than all layers of its decoder. A table in 8 bits is read in a tenth of
that time. Its logits are good enough to tell which tokens may be the likeliest and what all others
add up to, and these few are then computed from the table itself. Shortlists of this kind are old in
machine translation (Jean et al., 2015); here nothing is left out, so that a mask may still allow
any token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from speechmeta.decoding.products import row_scales

EXACT = 64
"""So many of each row's logits are computed in full."""

LEAST_WEIGHTS = 2**22
"""A smaller table is read quickly as it is."""

_STEP = 2 / 127
"""Of the products' seven bits between -1 and 1 (eight overflow where a processor adds pairs in 16
bits)."""

_STEPS = 62
"""From zero to a row's greatest value: the last step is cut on one side."""


class Shortlist:
    """A vocabulary's product whose likeliest logits are exact.

    Args:
        head: for which `fits` holds; it is read, not changed, and a copy in 8 bits is held.
    """

    def __init__(self, head: nn.Linear) -> None:
        self._weight = head.weight.detach()
        scales = row_scales(self._weight).double()
        zeros = torch.zeros(len(scales), dtype=torch.long)
        table = torch.quantize_per_channel(self._weight, scales, zeros, 0, torch.qint8)
        self._table = torch.ops.quantized.linear_prepack(table, None)
        # The product takes one scale for all its rows, from their least and greatest value. With
        # this row among them it is always the same, so that no row depends on the others.
        self._ends = torch.zeros(1, self._weight.shape[1])
        self._ends[0, 0], self._ends[0, 1] = 1.0, -1.0

    @staticmethod
    def fits(head: nn.Module) -> bool:
        """Whether it pays: a large plain table in float32 on a processor with such products."""
        return (
            type(head) is nn.Linear
            and head.bias is None
            and head.weight.device.type == "cpu"
            and head.weight.dtype == torch.float32
            and head.weight.numel() >= LEAST_WEIGHTS
            and torch.backends.quantized.engine in ("x86", "fbgemm")
        )

    def __call__(
        self, hidden: torch.Tensor, wanted: Sequence[tuple[int, int]] = ()
    ) -> torch.Tensor:
        """Logits (places, vocabulary) of hidden states (places, width).

        Args:
            wanted: (place, token) of further logits that have to be exact.
        """
        scale = hidden.abs().amax(1, keepdim=True).clamp(min=1e-12) / (_STEPS * _STEP)
        whole = hidden / scale
        coarse = (whole / _STEP).round() * _STEP
        # What seven bits leave out goes through as rows of its own: a few of Whisper's states are
        # so much larger than the others that these would be lost.
        rows = torch.cat([coarse, (whole - coarse) / _STEP, self._ends])
        products = torch.ops.quantized.linear_dynamic(rows, self._table, True)
        count = len(hidden)
        logits: torch.Tensor = products[:count].add_(products[count:-1], alpha=_STEP).mul_(scale)
        likeliest = logits.topk(min(EXACT, logits.shape[1])).indices
        exact = torch.bmm(self._weight[likeliest], hidden[:, :, None])[:, :, 0]
        logits.scatter_(1, likeliest, exact)
        if wanted:
            places, tokens = torch.tensor(wanted).T
            logits[places, tokens] = (hidden[places] * self._weight[tokens]).sum(1)
        return logits


__all__ = ["Shortlist"]
