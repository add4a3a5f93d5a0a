"""Weights from safetensors straight into a model: one copy in memory, every key accounted for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from speechmeta.errors import ModelError
from speechmeta.trust import CUT_HINT, checkpoint_errors, from_checkpoint, shard_names

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_NAMED_KEYS = 6


def safetensors_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint folder, one or several shards.

    Raises:
        ModelError: there are none, a shard is missing, or only pickled weights are there.
    """
    index = folder / _INDEX
    if index.is_file():
        names = shard_names(index)
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"the checkpoint {folder} lacks {', '.join(missing)}", "fetch the missing shards"
            )
        return [folder / name for name in names]
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        return [folder / name for name in others]
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    raise ModelError(
        f"the checkpoint {folder} has no safetensors weights"
        + (f", only {', '.join(pickled)}" if pickled else ""),
        "pickled weights can run code and are not loaded; convert them to safetensors"
        if pickled
        else f"it needs {_SINGLE} or shards with {_INDEX}",
    )


def ordinary_modes(folder: Path) -> None:
    """Makes files below a folder that only their owner may read as others are by the umask.

    safetensors writes through private temporary files and leaves their mode on the result.
    """
    umask = os.umask(0o077)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o777 == 0o600:
            path.chmod(0o666 & ~umask)


def tensor_names(files: list[Path]) -> set[str]:
    """All names in the files, without reading the tensors."""
    return {name for name, _ in _each(files)}


def _each(files: list[Path]) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    for path in files:
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    yield name, partial(tensors.get_tensor, name)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"cannot read the weights {path}: {error}", CUT_HINT) from error


Model = TypeVar("Model", bound=PreTrainedModel)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps transformers' remarks and its progress bars away."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def load_pretrained(
    kind: type[Model],
    folder: Path,
    dtype: torch.dtype,
    config: PreTrainedConfig | None = None,
    key_mapping: Mapping[str, str] | None = None,
) -> Model:
    """`kind.from_pretrained` of a checkpoint folder that has to fit in every key.

    Args:
        config: in place of the folder's.
        key_mapping: patterns of names in the files, and the model's names.

    Raises:
        ModelError: files are missing or damaged, names are missing or unexpected, or shapes do
            not fit; all are named.
    """
    safetensors_files(folder)
    options = {} if config is None else {"config": config}
    with (
        quiet_transformers(),
        checkpoint_errors(
            f"cannot load the checkpoint {folder}",
            "its files are missing, damaged (the download may be cut) or of another version",
        ),
    ):
        model, report = from_checkpoint(
            kind,
            folder,
            dtype=dtype,
            key_mapping=key_mapping and dict(key_mapping),
            local_files_only=True,
            use_safetensors=True,
            # It is told below, with those of other names.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    shapes = [
        f"{name} {list(has)} for {list(asks)}" for name, has, asks in report["mismatched_keys"]
    ]
    _refuse(folder, sorted(report["missing_keys"]), sorted(report["unexpected_keys"]), shapes)
    return cast(Model, model)


def _refuse(folder: Path, missing: list[str], unexpected: list[str], shapes: list[str]) -> None:
    kinds = (("lacks", missing), ("has unexpected", unexpected), ("has wrong shapes:", shapes))
    found = [f"{verb} {_listed(names)}" for verb, names in kinds if names]
    if found:
        raise ModelError(
            f"the checkpoint {folder} {' and '.join(found)}",
            "its weights and its configs do not belong together",
        )


def load_weights(
    model: nn.Module,
    files: list[Path],
    rename: Callable[[str], str],
    tied: Mapping[str, str],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Fills a model that was built on the meta device, tensor by tensor.

    Args:
        rename: from a name in the files to a name in the model.
        tied: names that may be missing, and the name whose tensor they share.
        dtype: of the floating-point parameters; tensors are converted as they are read.

    Raises:
        ModelError: names are missing or unexpected, or shapes do not fit; all are named.
    """
    pairs = ((rename(name), read) for name, read in _each(files))
    names = {rename(name) for name in tensor_names(files)}
    fill(model, names, pairs, files[0].parent, tied, dtype, device, mapped=True)


def fill(
    model: nn.Module,
    names: Set[str],
    pairs: Iterable[tuple[str, Callable[[], torch.Tensor]]],
    folder: Path,
    tied: Mapping[str, str],
    dtype: torch.dtype,
    device: torch.device,
    *,
    mapped: bool = False,
) -> None:
    """`load_weights` from any source.

    Args:
        names: all that there are, by the model's names.
        pairs: of each the name and what reads it.
        folder: for messages.
        mapped: whether what is read lies in a file's mapping, which ends with the file.

    Raises:
        ModelError: as `load_weights`.
    """
    expected: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    expected.update(
        {n: b for n, b in model.named_buffers() if n in model.state_dict(keep_vars=True)}
    )
    _refuse(folder, sorted(set(expected) - names - set(tied)), sorted(names - set(expected)), [])
    wrong = []
    for target, read in pairs:
        tensor = read()
        if tensor.shape != expected[target].shape:
            wrong.append(f"{target} {list(tensor.shape)} for {list(expected[target].shape)}")
            continue
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        _assign(model, target, tensor.to(device, kind, copy=mapped))
    _refuse(folder, [], [], wrong)
    for name, source in tied.items():
        _assign(model, name, model.get_parameter(source))


def _assign(model: nn.Module, name: str, value: torch.Tensor) -> None:
    owner_name, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    if leaf in owner._parameters:
        parameter = value if isinstance(value, nn.Parameter) else nn.Parameter(value, False)
        owner._parameters[leaf] = parameter
    else:
        owner._buffers[leaf] = value


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED_KEYS])
    more = len(names) - _NAMED_KEYS
    return f"{shown} and {more} more" if more > 0 else shown
