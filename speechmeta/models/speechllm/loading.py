"""`load_model`: any SpeechLLM checkpoint by folder, hub id, or none for the bundled one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from speechmeta.decoding.ngram import NgramModel
from speechmeta.decoding.words import WordModel
from speechmeta.errors import ModelError, UsageError
from speechmeta.models.speechllm.hub import Source, find_checkpoint
from speechmeta.models.speechllm.modeling_speechllm import SpeechLLMForConditionalGeneration
from speechmeta.models.speechllm.processing_speechllm import SpeechLLMProcessor
from speechmeta.models.speechllm.published import is_published, load_published
from speechmeta.models.speechllm.quantization import quantize_int8
from speechmeta.trust import (
    check_config,
    checkpoint_errors,
    from_checkpoint,
    read_json_object,
)

BUNDLED = Path(__file__).parents[2] / "checkpoints" / "bundled"
"""The checkpoint that this project trained and ships."""

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load_model(
    name_or_path: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    local_files_only: bool = False,
) -> tuple[SpeechLLMForConditionalGeneration, SpeechLLMProcessor]:
    """Loads a checkpoint and its processor, ready for inference.

    Args:
        name_or_path: a folder or hub id, in our layout or in that of `skit-ai/speechllm-*`;
            None for the bundled checkpoint. No code of a checkpoint is ever executed.
        device: `auto` takes CUDA, then MPS, then the CPU.
        dtype: `float32`, `bfloat16`, `float16`, `int8` (weights of the layers, the rest in
            bfloat16), or `auto`: half precision on CUDA, else float32.
        local_files_only: fetch nothing.

    Raises:
        ModelError: the checkpoint cannot be found, reached or read, or does not fit its config.
        UsageError: the device or dtype is not known or not there.
    """
    place = resolve_device(device)
    kind = torch.bfloat16 if dtype == "int8" else resolve_dtype(dtype, place)
    if name_or_path is None:
        if not (BUNDLED / "config.json").is_file():
            raise ModelError(
                "this installation has no bundled checkpoint",
                "install the whole package, or name a model",
            )
        name_or_path = BUNDLED
    source = find_checkpoint(name_or_path, local_files_only)
    config = read_json_object(source.folder / "config.json")
    check_config(config, str(source.folder / "config.json"))
    if config.get("model_type") == "speechllm":
        model, processor = _load_own(source, place, kind)
    elif is_published(config):
        with checkpoint_errors(f"cannot load the checkpoint {source.folder}"):
            model, processor = load_published(source, place, kind)
    else:
        raise ModelError(
            f"{source.folder} holds a {config.get('model_type', 'unknown')!r} model",
            "analysis needs a SpeechLLM checkpoint; DeSTA2 checkpoints are for speechmeta chat",
        )
    if dtype == "int8":
        quantize_int8(model)
    # For `model.generate_meta`, which the published checkpoints' users call.
    model.processor = processor
    model.ngram = NgramModel.load(source.folder)
    model.words = WordModel.load(source.folder)
    return model, processor


def _load_own(
    source: Source, device: torch.device, dtype: torch.dtype
) -> tuple[SpeechLLMForConditionalGeneration, SpeechLLMProcessor]:
    with checkpoint_errors(
        f"cannot load the checkpoint {source.folder}",
        "its files are missing, damaged (the download may be cut) or of another version",
    ):
        processor = from_checkpoint(SpeechLLMProcessor, source.folder, local_files_only=True)
        model, report = from_checkpoint(
            SpeechLLMForConditionalGeneration,
            source.folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(map(str, report.get(kind, ())))
        if names:
            raise ModelError(
                f"the checkpoint {source.folder} has {kind.replace('_', ' ')}: "
                + ", ".join(names[:6]),
                "its weights and its config do not belong together",
            )
    return model.to(device).eval(), processor


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


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The torch dtype that a name stands for on a device.

    Raises:
        UsageError: it is not known.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}", f"choose auto, {', '.join(DTYPES)}, int8")
    return DTYPES[dtype]
