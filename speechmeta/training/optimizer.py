"""Muon for the matrices of the transformer layers, AdamW for everything else, as one optimizer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

logger = logging.getLogger(__name__)


class MuonAdamW(Optimizer):
    """Steps both optimizers together.

    Muon (Jordan et al. 2024; scaled to AdamW's step size as in Liu et al., arXiv 2502.16982)
    takes the two-dimensional weights of hidden layers; embeddings, heads, convolutions, norms
    and biases stay with AdamW.
    """

    def __init__(
        self,
        hidden: Iterable[nn.Parameter],
        other: Iterable[nn.Parameter],
        lr: float,
        adam_lr: float,
        decay: float,
    ) -> None:
        self.skipped = 0
        hidden, other = list(hidden), list(other)
        self.parts: list[Optimizer] = []
        if hidden:
            self.parts.append(
                Muon(hidden, lr=lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            )
        if other:
            self.parts.append(
                AdamW(other, lr=adam_lr, weight_decay=decay, betas=(0.9, 0.98), fused=True)
            )
        # The parts' own groups are shared, so that a scheduler on this object steers both.
        groups = [group for part in self.parts for group in part.param_groups]
        super().__init__(groups, {})
        self.param_groups = groups

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        grads = [
            p.grad for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        # One broken batch must not break the weights: see the connector's note on NaN gradients.
        if not bool(torch.isfinite(torch.stack(torch._foreach_norm(grads)).sum())):
            self.skipped += 1
            logger.warning("gradients are not finite; skipped %d steps so far", self.skipped)
            return
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def build_optimizer(model: nn.Module, lr: float, adam_lr: float, decay: float) -> MuonAdamW:
    """The optimizer for a SpeechLLM: layers' linear weights to Muon, the rest to AdamW.

    Args:
        lr: of Muon; 0 leaves everything to AdamW.
    """
    hidden: list[nn.Parameter] = []
    other: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_layers = ".layers." in name and parameter.ndim == 2 and min(parameter.shape) > 16
        (hidden if in_layers and lr > 0 else other).append(parameter)
    return MuonAdamW(hidden, other, lr, adam_lr, decay)


def trapezoid(progress: Callable[[], float], warmup: int, decay_share: float) -> Any:
    """A learning rate factor: linear warm-up by steps, constant, then linear decay to zero.

    Args:
        progress: the share of the run that is done, 0 to 1.
        warmup: steps.
        decay_share: the last share of the run, in which the rate falls.
    """

    def factor(step: int) -> float:
        left = max(0.0, 1.0 - progress())
        return min(1.0, (step + 1) / max(1, warmup), left / max(decay_share, 1e-6))

    return factor
