"""WavLM's gated relative attention through PyTorch's scaled_dot_product_attention.

transformers' WavLM always computes and averages the attention weights; on long audio that is
most of the encoder's time. The numbers are the same within float rounding.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers.models.wavlm.modeling_wavlm import WavLMAttention


class WavLMSdpaAttention(WavLMAttention):  # type: ignore[misc]
    """`WavLMAttention` without attention weights as an output."""

    def torch_multi_head_self_attention(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        gated_position_bias: torch.Tensor,
    ) -> tuple[torch.Tensor, None]:
        batch, length, _ = hidden_states.shape
        query, key, value = (
            projection(hidden_states).view(batch, length, self.num_heads, -1).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = gated_position_bias.view(batch, self.num_heads, length, length).to(query.dtype)
        if attention_mask is not None:
            bias = bias.masked_fill(~attention_mask.bool()[:, None, None, :], float("-inf"))
        output = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out_proj(output.transpose(1, 2).flatten(2)), None


def use_sdpa(encoder: nn.Module) -> None:
    """Switches every WavLM attention of an encoder to SDPA; weights and their names stay."""
    for module in encoder.modules():
        if type(module) is WavLMAttention:
            module.__class__ = WavLMSdpaAttention
