"""Finds, loads and places DeSTA checkpoints, quantised if wanted."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from speechmeta.errors import ModelError, UsageError
from speechmeta.models.desta2.configuration_desta2 import DestaConfig
from speechmeta.models.desta2.modeling_desta2 import DestaForConditionalGeneration
from speechmeta.models.desta2.processing_desta2 import DestaProcessor
from speechmeta.models.desta2.published import (
    CHECKPOINT_FILES,
    is_published,
    load_published,
    read_config,
)
from speechmeta.models.weights import quiet_transformers
from speechmeta.trust import check_folder, check_hub_id, checkpoint_errors, from_checkpoint

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_AUDIO_GENERATION = "audio_generation_config"
QUANTIZATIONS = ("int8", "int4", "torchao-int8", "torchao-int4")


def load_desta(
    name_or_path: str | Path,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    local_files_only: bool = False,
    quantization: Any = None,
    device_map: Any = None,
    audio_dtype: str | torch.dtype = "float32",
) -> tuple[DestaForConditionalGeneration, DestaProcessor]:
    """Model and processor of a checkpoint; see `chat.model.ChatModel.from_pretrained`."""
    place = pick_device(str(device))
    wanted = pick_dtype(dtype)
    audio_wanted = pick_dtype("float32" if audio_dtype == "auto" else audio_dtype)
    quantizer = quantization_config(quantization, place)
    if quantization == "int8" and wanted == "auto":
        # bitsandbytes multiplies in float16 and would convert at every layer.
        wanted = torch.float16
    options: dict[str, Any] = {}
    if quantizer is not None:
        options["quantization_config"] = quantizer
        # A quantised decoder is built where it stays; it cannot be moved afterwards.
        device_map = device_map or {"": place}
    if device_map is not None:
        _require("accelerate", "placing a model by quantization or device_map")
        options["device_map"] = device_map
    folder = find_checkpoint(name_or_path, local_files_only)
    with quiet_transformers():
        model, processor = _load(folder, name_or_path, wanted, local_files_only, options)
    try:
        model.audio_tower.to(place, audio_wanted)
        model.multi_modal_projector.to(place)
        if not options:
            model.language_model.to(place)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"the model cannot go to {place}: {str(error).splitlines()[0]}",
            "take device=cpu, a smaller dtype, or quantization",
        ) from error
    return model.eval(), processor


def _load(
    folder: Path,
    name: str | Path,
    dtype: torch.dtype | str,
    local_files_only: bool,
    options: dict[str, Any],
) -> tuple[DestaForConditionalGeneration, DestaProcessor]:
    raw = read_config(folder)
    check_folder(folder)
    if is_published(raw):
        return load_published(folder, dtype, local_files_only, options)
    if raw.get("model_type") != DestaConfig.model_type:
        raise ModelError(
            f"{name} is a {raw.get('model_type')!r} checkpoint, not DeSTA2 or DeSTA2.5",
            "chat needs DeSTA-ntu/DeSTA2-8B-beta or DeSTA-ntu/DeSTA2.5-Audio-Llama-3.1-8B",
        )
    if options:
        raise UsageError(
            "a checkpoint saved by save_pretrained takes no quantization or device_map",
            "load the published layout, which names the decoder",
        )
    if dtype == "auto":
        # The whole model's own type is that of Whisper; what may vary is the decoder's.
        dtype = _DTYPES.get(str(raw.get("text_config", {}).get("dtype")), torch.float32)
    return _load_saved(folder, dtype)


def _load_saved(
    folder: Path, dtype: torch.dtype | str
) -> tuple[DestaForConditionalGeneration, DestaProcessor]:
    with checkpoint_errors(
        f"{folder} cannot be loaded", "save it again with save_pretrained; a copy may be cut"
    ):
        model, report = from_checkpoint(
            DestaForConditionalGeneration,
            folder,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
        processor = from_checkpoint(DestaProcessor, folder)
    try:
        model.audio_tower.generation_config = GenerationConfig.from_pretrained(
            folder / _AUDIO_GENERATION
        )
        model.language_model.generation_config = GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder} lacks a generation config", "save it again with save_pretrained"
        ) from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(map(str, report[what]))
        if names:
            raise ModelError(
                f"{folder} has {what.replace('_', ' ')}: {', '.join(names[:8])}",
                "save it again with save_pretrained",
            )
    return model, processor


def save_desta(
    model: DestaForConditionalGeneration, processor: DestaProcessor, folder: str | Path
) -> None:
    """Writes everything, Whisper and decoder included, in transformers' layout."""
    with quiet_transformers():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        # Whisper's says which tokens are suppressed, the decoder's where answers end.
        model.audio_tower.generation_config.save_pretrained(Path(folder) / _AUDIO_GENERATION)
        model.language_model.generation_config.save_pretrained(folder)


def find_checkpoint(name_or_path: str | Path, local_files_only: bool) -> Path:
    """The folder of a checkpoint; what is not a folder is a hub id.

    Raises:
        ModelError: there is neither.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        return folder
    check_hub_id(name_or_path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(
            snapshot_download(
                str(name_or_path),
                allow_patterns=list(CHECKPOINT_FILES),
                local_files_only=local_files_only,
            )
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        why = "fetching is switched off" if local_files_only else "the hub is out of reach"
        raise ModelError(
            f"{name_or_path} is neither a folder nor a checkpoint on this machine, and {why}",
            f"give a folder, or run `hf download {name_or_path}` with a network",
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{name_or_path} is neither a folder nor a checkpoint that can be fetched: "
            f"{str(error).strip().splitlines()[0]}",
            "give a folder, or allow the download and check the name",
        ) from error


def pick_device(device: str) -> str:
    """The device for a name; "auto" takes CUDA, then MPS, then the CPU."""
    if device != "auto":
        try:
            torch.device(device)
        except RuntimeError as error:
            raise UsageError(f"device {device!r} is not known", "auto, cpu, cuda or mps") from error
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(dtype: str | torch.dtype) -> torch.dtype | str:
    """A torch type, or "auto"."""
    if dtype == "auto" or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise UsageError(f"dtype {dtype!r} is not known", f"auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _require(library: str, purpose: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise ModelError(
            f"{purpose} needs {library}, which is not installed", f"pip install {library}"
        )


def quantization_config(quantization: Any, device: str) -> Any:
    """A quantization config of transformers for a name; None and configs go through.

    Raises:
        UsageError: the name is not known.
        ModelError: the library that it needs is not installed, or the device cannot do it.
    """
    if quantization is None or not isinstance(quantization, str):
        return quantization
    if quantization not in QUANTIZATIONS:
        raise UsageError(
            f"quantization {quantization!r} is not known", f"known are {', '.join(QUANTIZATIONS)}"
        )
    library = "torchao" if quantization.startswith("torchao") else "bitsandbytes"
    _require(library, f"quantization {quantization!r}")
    if quantization == "torchao-int4" and not device.startswith("cuda"):
        raise ModelError(
            f"quantization {quantization!r} needs CUDA, the device is {device}",
            "take int4, int8 or torchao-int8",
        )
    if library == "bitsandbytes":
        from transformers import BitsAndBytesConfig

        if quantization == "int8":
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    kind = Int8WeightOnlyConfig if quantization.endswith("int8") else Int4WeightOnlyConfig
    return TorchAoConfig(quant_type=kind())


__all__ = [
    "QUANTIZATIONS",
    "find_checkpoint",
    "load_desta",
    "pick_device",
    "pick_dtype",
    "quantization_config",
    "save_desta",
]
