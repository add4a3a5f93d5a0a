"""Networks that ship in this package, each in one safetensors file with notes of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from speechmeta.errors import ModelError


@contextmanager
def opened_network(
    file: Path, what: str
) -> Iterator[tuple[dict[str, torch.Tensor], dict[str, str]]]:
    """The tensors of a file, as float32, and its notes.

    Args:
        what: is expected in it, for the message.

    Raises:
        ModelError: there is no such file, or what is done with its contents fails.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as opened:
            tensors = {name: opened.get_tensor(name).float() for name in list(opened.keys())}
            notes = dict(opened.metadata() or {})
        yield tensors, notes
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ModelError(f"{file} holds no {what}: {error}", "install speechmeta again") from error


__all__ = ["opened_network"]
