"""Weights on disk: matrices in 8 bits with a scale a row, and label heads in files of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from speechmeta.decoding.products import row_scales
from speechmeta.errors import ModelError

SCALE = "::scale"
"""Ends the name of the tensor that holds the scales of the matrix named before it."""

INT8_ROWS = {"method": "int8-rows"}
"""`config.quantization` of a checkpoint whose matrices are stored as `quantized` makes them."""


def quantized(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict with its matrices and convolutions in int8, one float32 scale per output row.

    Position tables and vectors stay as they are: they are small, or every value counts.
    """
    result: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if tensor.ndim < 2 or not tensor.is_floating_point() or "embed_positions" in name:
            result[name] = tensor.contiguous()
            continue
        rows = tensor.detach().float().flatten(1)
        scale = row_scales(rows)
        values = (rows / scale[:, None]).round().to(torch.int8)
        result[name] = values.view(tensor.shape).contiguous()
        result[name + SCALE] = scale
    return result


def check_quantization(given: Mapping[str, Any], where: object) -> None:
    """Raises ModelError where a config's `quantization` is not `INT8_ROWS`."""
    if given.get("method") != INT8_ROWS["method"]:
        raise ModelError(
            f"{where} stores its weights as {given.get('method')!r}",
            "it may need a newer speechmeta",
        )


def read_quantized(
    folder: Path, prefix: str, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """The state dict that `quantized` stored, as floating-point tensors.

    Args:
        folder: the checkpoint's.
        prefix: every name has to begin with it.
        dtype: of the result; None for float32.

    Raises:
        ModelError: the files are missing or damaged, or a scale does not fit its matrix.
    """
    kind = dtype or torch.float32
    result: dict[str, torch.Tensor] = {}
    with _opened(folder / "model.safetensors") as stored:
        names = set(stored.keys())
        for name in stored.keys():  # noqa: SIM118 - not a mapping
            if name.endswith(SCALE):
                continue
            if not name.startswith(prefix):
                raise ModelError(
                    f"the checkpoint {folder} has unexpected {name}",
                    f"the names of its weights have to begin with {prefix}",
                )
            tensor = stored.get_tensor(name)
            if tensor.dtype != torch.int8:
                # A copy: the file's mapping ends with the file.
                result[name] = tensor.to(
                    kind if tensor.is_floating_point() else tensor.dtype, copy=True
                )
                continue
            scale = stored.get_tensor(name + SCALE) if name + SCALE in names else None
            if scale is None or scale.numel() != len(tensor):
                raise ModelError(
                    f"the checkpoint {folder} has no scales that fit {name}", "fetch the file again"
                )
            by_row = scale.float().view(-1, *[1] * (tensor.ndim - 1))
            result[name] = tensor.float().mul_(by_row).to(kind)
    return result


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file.

    Raises:
        ModelError: it is missing or damaged.
    """
    with _opened(path) as tensors:
        # A copy each: the file's mapping ends with the file.
        return {name: tensors.get_tensor(name).clone() for name in tensors.keys()}  # noqa: SIM118


class _Stored(Protocol):
    """What of an open safetensors file is used here."""

    def keys(self) -> list[str]: ...

    def get_tensor(self, name: str) -> torch.Tensor: ...


@contextmanager
def _opened(path: Path) -> Iterator[_Stored]:
    if not path.is_file():
        raise ModelError(f"the checkpoint {path.parent} lacks {path.name}", "fetch the file")
    try:
        with safe_open(path, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"cannot read the weights {path}: {error}", "fetch the file again"
        ) from error


def fill_heads(heads: nn.Module, path: Path) -> None:
    """Reads the weights of label heads from their file.

    Raises:
        ModelError: the file is missing or damaged, or was made for another encoder or for other
            fields.
    """
    given = read_tensors(path)
    wanted = heads.state_dict()
    missing, unexpected = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    wrong = [
        f"{name} {list(given[name].shape)} for {list(wanted[name].shape)}"
        for name in sorted(set(wanted) & set(given))
        if given[name].shape != wanted[name].shape
    ]
    for kind, names in (("lacks", missing), ("has unexpected", unexpected), ("has", wrong)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
            raise ModelError(
                f"the heads {path} {kind} {shown}",
                "they were made for another encoder, or for other fields than config.json names",
            )
    heads.load_state_dict(given)


def save_heads(heads: nn.Module, path: Path) -> None:
    """Writes the weights of label heads into their file."""
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in heads.state_dict().items()
    }
    save_file(state, path, metadata={"format": "pt"})


__all__ = [
    "INT8_ROWS",
    "SCALE",
    "check_quantization",
    "fill_heads",
    "quantized",
    "read_quantized",
    "save_heads",
]
