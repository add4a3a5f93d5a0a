"""Where a model runs and in which number format, by name."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import torch

from speechmeta.errors import UsageError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that a name stands for.

    Raises:
        UsageError: it is not known, or not there.
    """
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"unknown device {device!r}", "choose auto, cpu, cuda or mps") from error
    there: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if place.type not in there or not there[place.type]():
        raise UsageError(f"there is no {place.type} device here", "choose auto or cpu")
    return place


def resolve_dtype(
    dtype: str | torch.dtype, device: torch.device, *, on_cpu: torch.dtype = torch.float32
) -> torch.dtype:
    """The torch dtype that a name stands for on a device.

    Args:
        on_cpu: what `auto` stands for on a CPU.

    Raises:
        UsageError: it is not known.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        if device.type != "cuda":
            return on_cpu if device.type == "cpu" else torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}", f"choose auto, {', '.join(DTYPES)}, int8")
    return DTYPES[dtype]


def fast_cpu_dtype() -> torch.dtype:
    """bfloat16 where this machine's CPU multiplies in it, else float32."""
    capabilities = torch.cpu.get_capabilities()
    has = any(capabilities.get(name, False) for name in ("amx_tile", "avx512_bf16", "sve_bf16"))
    return torch.bfloat16 if has else torch.float32


def return_freed_memory() -> None:
    """Gives memory that was freed back to the system, where the C library would keep it (glibc).

    Batches of many shapes leave holes between what is kept; of a call of ten minutes they came to
    some hundred megabytes.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
