"""WavLM's gated relative attention without attention weights as an output.

transformers' WavLM repeats the position bias for every clip of a batch and always computes
and averages the attention weights; on long audio that is most of the encoder's time. The
numbers are the same within float rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.models.wavlm.modeling_wavlm import WavLMAttention


class WavLMSdpaAttention(WavLMAttention):
    """`WavLMAttention` on scaled_dot_product_attention; weights and their names stay."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        index: int = 0,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None, torch.Tensor]:
        """Attends over (batch, frames, width); `attention_mask` (batch, frames) is true where real.

        `position_bias` (heads, frames, frames) is made by the first layer and handed on.
        """
        batch, length, _ = hidden_states.shape
        if position_bias is None:
            position_bias = self.compute_bias(length, length)
        heads = hidden_states.view(batch, length, self.num_heads, -1).transpose(1, 2)
        gate_a, gate_b = torch.sigmoid(
            self.gru_rel_pos_linear(heads).unflatten(-1, (2, 4)).sum(-1)
        ).chunk(2, dim=-1)
        gate = gate_a * (gate_b * self.gru_rel_pos_const - 1.0) + 2.0
        query, key, value = (
            projection(hidden_states).view(batch, length, self.num_heads, -1).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = gate.to(query.dtype) * position_bias.to(query.dtype)
        if attention_mask is not None:
            # Not minus infinity: PyTorch's CPU kernel gives NaN where a block of keys is all out.
            least = torch.finfo(bias.dtype).min
            bias = bias.masked_fill(~attention_mask.bool()[:, None, None, :], least)
        dropout = self.dropout if self.training else 0.0
        if bias.requires_grad:
            output = _attend(query, key, value, bias, self.scaling, dropout)
        else:
            output = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=bias, dropout_p=dropout
            )
        return self.out_proj(output.transpose(1, 2).flatten(2)), None, position_bias


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    scaling: float,
    dropout: float,
) -> torch.Tensor:
    # With a mask that is trained, PyTorch's own function takes a path that converts to float32
    # and back; in bfloat16 on a CPU this is twice as fast.
    with torch.autocast(query.device.type, enabled=False):
        scores = torch.baddbmm(
            bias.flatten(0, 1),
            query.flatten(0, 1),
            key.flatten(0, 1).transpose(1, 2),
            alpha=scaling,
        )
        weights = functional.dropout(scores.softmax(-1), dropout, training=dropout > 0)
        return torch.bmm(weights, value.flatten(0, 1)).view_as(query)


def use_sdpa(encoder: nn.Module) -> None:
    """Switches every WavLM attention of an encoder to `WavLMSdpaAttention`."""
    for module in encoder.modules():
        if type(module) is WavLMAttention:
            module.__class__ = WavLMSdpaAttention
