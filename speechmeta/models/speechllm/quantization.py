"""Weight-only int8: half of bfloat16's memory, one scale per output row.

Activations and everything but the layers' linear weights stay in bfloat16. A decoding step reads
one row, for which torchao's weight-only int8 takes five times as long on a CPU
(benchmarks/int8.py), so the product is PyTorch's own packed kernel for single rows and a
conversion for larger ones.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

_PACKED_ROWS = 2
"""Up to this many rows the packed CPU kernel beats converting the weight (at 2048 x 5632)."""


class Int8Linear(nn.Module):
    """`nn.Linear` with weights (out, in) in int8 and scales (out,) in the activations' dtype."""

    weight: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scales = (weight.abs().amax(1).float() / 127).clamp(min=1e-8)
        self.register_buffer("weight", (weight.float() / scales[:, None]).round().to(torch.int8))
        self.register_buffer("scales", scales.to(weight.dtype))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out)."""
        rows = inputs.reshape(-1, self.in_features)
        if inputs.device.type == "cpu" and len(rows) <= _PACKED_ROWS:
            output = torch._weight_int8pack_mm(rows, self.weight, self.scales)
        else:
            output = functional.linear(rows, self.weight.to(inputs.dtype)) * self.scales
        if self.bias is not None:
            output = output + self.bias
        return output.view(*inputs.shape[:-1], self.out_features)


def quantize_int8(model: nn.Module) -> None:
    """Replaces the linear layers inside the encoder's and decoder's layers, in place.

    Heads, embeddings and convolutions keep their dtype: they are small, or their errors
    go straight into the answer.
    """
    for name, module in list(model.named_modules()):
        if ".layers." not in name or "rel_pos" in name:
            continue
        for leaf, child in list(module.named_children()):
            # Subclasses that compute something else, such as an adapter's, stay.
            plain = isinstance(child, nn.Linear) and type(child).forward is nn.Linear.forward
            if plain and "rel_pos" not in leaf:
                setattr(module, leaf, Int8Linear(child))
