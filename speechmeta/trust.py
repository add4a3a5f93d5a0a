"""What of a checkpoint is believed: numbers and names, never code.

The one place where transformers reads a folder or the hub for us. A checkpoint's own modules
are never run and nobody is asked whether they may; a config that reaches for code by another
way (a kernel of the hub as its attention, a quantisation back end) is refused, and whatever a
cut or hostile file makes the libraries raise becomes a `ModelError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speechmeta.errors import ModelError, SpeechMetaError, require_extra

CUT_HINT = "the download may be cut: fetch its files again"

ATTENTION = frozenset({None, "", "eager", "sdpa"})
"""What a config may name as its attention. All else is a kernel that is fetched from the hub,
or becomes one where a package is not installed (`flash_attention_2`)."""

EXPERTS = frozenset({None, "", "eager", "batched_mm", "grouped_mm"})

QUANTIZATION = frozenset({"bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit"})
"""Back ends that a config may ask for: those that are read from the checkpoint's own tensors
without fetching kernels or building objects that the config names."""

_ALLOWED: Mapping[str, frozenset[str | None]] = {
    "attn_implementation": ATTENTION,
    "_attn_implementation": ATTENTION,
    "_attn_implementation_internal": ATTENTION,
    "experts_implementation": EXPERTS,
    "_experts_implementation": EXPERTS,
    "_experts_implementation_internal": EXPERTS,
}

_CODE_KEYS = frozenset({"auto_map", "custom_pipelines", "custom_generate"})
"""Keys that name modules of a checkpoint. Published checkpoints carry them, so they are no
fault; they are left out of what is used."""

LARGEST: Mapping[str, int] = {
    "hidden_layers": 512,
    "encoder_layers": 512,
    "decoder_layers": 512,
    "qformer_layers": 512,
    "num_layers": 512,
    "n_layers": 512,
    "attention_heads": 4096,
    "key_value_heads": 4096,
    "hidden_size": 65_536,
    "d_model": 65_536,
    "intermediate_size": 1 << 20,
    "vocab_size": 1 << 23,
    "prompt_size": 65_536,
    "position_embeddings": 1 << 24,
    # Of feature extractors, which make filters and padding of such sizes.
    "chunk_length": 600,
    "feature_size": 4096,
    "n_fft": 65_536,
    "hop_length": 65_536,
    "n_samples": 1 << 24,
    "nb_max_frames": 1 << 20,
    "sampling_rate": 768_000,
}
"""Largest value of a config's key that ends so; ten times what any published model has."""

_CONFIGS = ("config.json", "generation_config.json", "preprocessor_config.json")

_DEPTH = 32


def without_code(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the keys that name code, at any depth.

    The config is expected to have passed `check_config`.
    """
    return {
        key: without_code(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _CODE_KEYS
    }


def check_config(config: object, where: str, depth: int = 0) -> None:
    """Looks through a config, at any depth, for what is refused.

    Raises:
        ModelError: it names code, an absurd size, or is nested too deeply.
    """
    if depth > _DEPTH:
        raise ModelError(f"{where} is nested more than {_DEPTH} levels deep", CUT_HINT)
    if isinstance(config, (list, tuple)):
        for item in config:
            if isinstance(item, (dict, list, tuple)):
                check_config(item, where, depth + 1)
        return
    if not isinstance(config, Mapping):
        return
    for key, value in config.items():
        _check_entry(str(key), value, where)
        if isinstance(value, (Mapping, list, tuple)):
            check_config(value, where, depth + 1)


def _check_entry(key: str, value: object, where: str) -> None:
    if key in _ALLOWED:
        # Some configs name one attention for each of their parts.
        for name in value.values() if isinstance(value, Mapping) else (value,):
            if not (name is None or isinstance(name, str)) or name not in _ALLOWED[key]:
                raise ModelError(
                    f"{where}: {key} is {name!r}, which may be code from elsewhere",
                    f"no code of a checkpoint is run; choose {_listed(_ALLOWED[key])} there",
                )
    elif key == "quantization_config" and value is not None:
        method = value.get("quant_method") if isinstance(value, Mapping) else value
        if method is None and isinstance(value, Mapping):
            eight_or_four = value.get("load_in_8bit") or value.get("load_in_4bit")
            method = "bitsandbytes" if eight_or_four else None
        if not isinstance(method, str) or method not in QUANTIZATION:
            raise ModelError(
                f"{where}: the quantisation {method!r} brings code of its own",
                "take the checkpoint that is not quantised, and --quantization",
            )
    elif key == "transformers_weights" and value is not None:
        plain_name(value, where)
    elif isinstance(value, int) and not isinstance(value, bool):
        for ending, most in LARGEST.items():
            if key.endswith(ending) and not -1 <= value <= most:
                raise ModelError(f"{where}: {key} is {value}", f"{most} is the most; {CUT_HINT}")


def _listed(names: frozenset[str | None]) -> str:
    return ", ".join(sorted(name for name in names if name))


def plain_name(name: object, where: str) -> str:
    """A file's name beside the file that names it.

    Raises:
        ModelError: it leads elsewhere, such as by `../`.
    """
    if (
        not isinstance(name, str)
        or not name
        or name != Path(name).name
        or "\\" in name
        or "\0" in name
    ):
        raise ModelError(
            f"{where} names {str(name)[:80]!r}, which is not a file beside it",
            "a checkpoint's files lie in its folder; fetch them again from where you trust",
        )
    return name


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint's file.

    Raises:
        ModelError: it is missing, no JSON object, or nested without end.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", "check the folder") from error
    except RecursionError as error:
        raise ModelError(f"{path} is nested too deeply", CUT_HINT) from error
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}", CUT_HINT) from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} is not a JSON object", CUT_HINT)
    return data


def shard_names(index: Path) -> list[str]:
    """The files that a weight index names, each beside it.

    Raises:
        ModelError: it is not an index, or names a file elsewhere.
    """
    data = read_json_object(index).get("weight_map")
    if not isinstance(data, dict) or not data:
        raise ModelError(f"{index} is not a weight index", CUT_HINT)
    return sorted({plain_name(name, str(index)) for name in data.values()})


def check_folder(folder: Path) -> None:
    """Looks at the configs and weight indexes of a checkpoint's folder before they are used.

    Raises:
        ModelError: see `check_config` and `shard_names`.
        MissingExtraError: an adapter lies in it, which would be left out for want of its library.
    """
    if (folder / "adapter_config.json").is_file():
        require_extra("peft", "train", f"the adapter in {folder}")
    for name in _CONFIGS:
        path = folder / name
        if path.is_file():
            check_config(read_json_object(path), str(path))
    for index in folder.glob("*.index.json"):
        shard_names(index)


@contextmanager
def checkpoint_errors(message: str, hint: str = CUT_HINT) -> Iterator[None]:
    """Turns whatever a damaged or hostile file makes a library raise into a `ModelError`.

    Args:
        message: what could not be done; the error's first line is added.
    """
    try:
        yield
    except SpeechMetaError:
        raise
    except Exception as error:
        # SafetensorError, UnpicklingError, RecursionError, ImportError, MemoryError, panics of
        # tokenizers ...: the libraries raise what the broken file makes their parts raise.
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        if "trust_remote_code" in str(error):
            first = "it would need code of its own"
            hint = "no code of a checkpoint is ever run; take one of a known architecture"
        raise ModelError(f"{message}: {first}", hint) from error


def from_checkpoint(loader: Any, place: str | Path, **options: Any) -> Any:
    """`loader.from_pretrained(place, **options)` that never runs a checkpoint's code.

    Args:
        loader: a class of transformers or one that derives from it.
        place: a folder or a hub id.

    Raises:
        ModelError: the checkpoint names code or files that are refused. What transformers
            raises goes through; `checkpoint_errors` turns it into a `ModelError`.
    """
    if Path(place).is_dir():
        check_folder(Path(place))
    else:
        check_hub_id(place)
        _check_remote(loader, place, options)
    return loader.from_pretrained(place, trust_remote_code=False, **options)


def _check_remote(loader: Any, place: str | Path, options: Mapping[str, Any]) -> None:
    """Refuses a model of the hub by its config, before its weights are fetched."""
    if _reads_config(loader):
        from transformers import PreTrainedConfig

        keys = ("local_files_only", "revision")
        how = {key: options[key] for key in keys if key in options}
        config, _ = PreTrainedConfig.get_config_dict(place, **how)
        check_config(config, f"config.json of {place}")
        _check_adapter(place, how)


def check_hub_id(place: str | Path) -> None:
    """Sees that what is no folder here may be a hub id: `owner/model`, of letters and digits.

    Raises:
        ModelError: it can only be the name of a folder.
    """
    name = str(place)
    if Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"there is no folder {name}", "name a checkpoint's folder, or a hub id")


def _check_adapter(place: str | Path, how: Mapping[str, object]) -> None:
    """Refuses an adapter of the hub, whose config would lead to a model that was not looked at.

    A folder with a `config.json` of its own is no such adapter, even if one lies in it.

    Raises:
        ModelError: it is one.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    if find_adapter_config_file(str(place), **how) is not None:
        raise ModelError(
            f"{place} is an adapter of another model, or has one",
            "merge it into its model, or download it and name the folder",
        )


def _reads_config(loader: object) -> bool:
    name = getattr(loader, "__name__", "")
    return "Model" in name or "Config" in name or "For" in name


__all__: Sequence[str] = [
    "CUT_HINT",
    "check_config",
    "check_folder",
    "check_hub_id",
    "checkpoint_errors",
    "from_checkpoint",
    "plain_name",
    "read_json_object",
    "shard_names",
    "without_code",
]
