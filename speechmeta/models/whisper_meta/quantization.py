"""Linear layers that multiply in 8 bits on the CPU, each row of the input with its own scale."""

from __future__ import annotations

import torch
from torch import nn

from speechmeta.decoding.products import row_scales


class DynamicInt8Linear(nn.Module):
    """`nn.Linear` with weights (out, in) in int8, one scale per output row.

    Activations are quantised row by row as they come (dynamic quantisation), the products are
    summed in 32 bits (`torch._int_mm`: VNNI or AMX where the CPU has them).
    """

    weight: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scales = row_scales(weight)
        self.register_buffer("weight", (weight / scales[:, None]).round().to(torch.int8))
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out)."""
        rows = inputs.reshape(-1, self.in_features).float()
        scale = (rows.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12)
        product = torch._int_mm((rows / scale).round().to(torch.int8), self.weight.T)
        output = product.float() * (scale * self.scales)
        if self.bias is not None:
            output = output + self.bias
        return output.to(inputs.dtype).view(*inputs.shape[:-1], self.out_features)


def quantize_linear(model: nn.Module) -> None:
    """Replaces the linear layers inside the encoder's and decoder's layers, in place.

    The vocabulary's product and the convolutions stay: their errors go straight into the answer.
    """
    for name, module in list(model.named_modules()):
        if ".layers." not in name:
            continue
        for leaf, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, leaf, DynamicInt8Linear(child))


__all__ = ["DynamicInt8Linear", "quantize_linear"]
