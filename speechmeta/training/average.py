"""Averages of checkpoints' weights.

Checkpoints of one path of training make different mistakes; their mean makes fewer (stochastic
weight averaging, Izmailov et al., arXiv 1803.05407).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from speechmeta.errors import UsageError

_WEIGHTS_FILE = "model.safetensors"


def check_parts(parts: Mapping[Path, float]) -> None:
    """Looks at what is to be averaged before anything is trained.

    Raises:
        UsageError: a checkpoint is not there, or the shares leave nothing to the model.
    """
    for folder in parts:
        if not (folder / _WEIGHTS_FILE).is_file():
            raise UsageError(
                f"there is no checkpoint in {folder} to average with", "check model.average"
            )
    if any(share <= 0 for share in parts.values()) or sum(parts.values()) >= 1:
        raise UsageError(
            f"shares of {sum(parts.values()):g} for other checkpoints",
            "give each more than 0, and less than 1 together",
        )


@torch.no_grad()
def average_into(model: nn.Module, parts: Mapping[Path, float]) -> None:
    """Moves a model's weights towards those of other checkpoints of the same shapes.

    Args:
        parts: folders of checkpoints and their shares of the mean; the model keeps the rest.

    Raises:
        UsageError: a checkpoint is missing, damaged, or of another shape.
    """
    check_parts(parts)
    rest = 1.0 - sum(parts.values())
    own = dict(model.named_parameters())
    others = {folder: _weights(folder) for folder in parts}
    for folder, weights in others.items():
        wrong = [n for n in own if n not in weights or weights[n].shape != own[n].shape]
        if wrong:
            raise UsageError(
                f"{folder} does not fit: {wrong[0]} is missing or of another shape",
                "average checkpoints of one model only",
            )
    for name, weight in own.items():
        mean = rest * weight.float()
        for folder, share in parts.items():
            mean += share * others[folder][name].float().to(weight.device)
        weight.copy_(mean)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(folder / _WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"cannot read {folder}: {error}", "the file is damaged") from error
