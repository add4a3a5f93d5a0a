"""Linear modules for inference: joined where they read the same input, packed where that pays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

MOST_COPIED = 128 * 2**20
"""Bytes of weights up to which joined copies are held; reading larger ones is all that counts."""


def row_scales(weight: torch.Tensor) -> torch.Tensor:
    """What a step of 8 bits is worth in each row (rows,) of a float32 matrix (rows, columns)."""
    # Without a copy of the matrix, which absolute values would be.
    greatest = torch.maximum(weight.amax(1), -weight.amin(1))
    return (greatest / 127).clamp(min=1e-12)


class Product:
    """Linear modules that read the same input, side by side.

    Args:
        modules: plain ones are joined; quantised and adapted ones are called as they are.
        copied: whether copies may be held. On a CPU in bfloat16 they are packed as oneDNN wants
            them, which otherwise happens in every product.
        gelu: whether the results go through it.
    """

    def __init__(self, modules: Sequence[nn.Module], copied: bool, gelu: bool = False) -> None:
        self._modules = modules
        self._gelu = gelu
        self._weight: torch.Tensor | None = None
        self._bias: torch.Tensor | None = None
        self._packed = False
        linears = [module for module in modules if type(module) is nn.Linear]
        if not copied or len(linears) < len(modules):
            return
        weights = [linear.weight.detach() for linear in linears]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        if any(linear.bias is not None for linear in linears):
            # Some of Whisper's modules that read the same input have one, some have none.
            biases = [
                linear.weight.new_zeros(linear.out_features)
                if linear.bias is None
                else linear.bias.detach()
                for linear in linears
            ]
            self._bias = torch.cat(biases)
        self._packed = (
            weight.device.type == "cpu"
            and weight.dtype == torch.bfloat16
            and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
        self._weight = (
            torch.ops.mkldnn._reorder_linear_weight(weight, 1) if self._packed else weight
        )

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., the modules' outs)."""
        if self._packed:
            after, kind = ("gelu", "none") if self._gelu else ("none", "")
            fused: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                inputs, self._weight, self._bias, after, [], kind
            )
            return fused
        if self._weight is None:
            results = [module(inputs) for module in self._modules]
            result = results[0] if len(results) == 1 else torch.cat(results, -1)
        else:
            result = functional.linear(inputs, self._weight, self._bias)
        return functional.gelu(result) if self._gelu else result
