"""`load_model`: any SpeechLLM checkpoint by folder or hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from speechmeta.errors import ModelError
from speechmeta.models.devices import resolve_device, resolve_dtype
from speechmeta.models.hub import Source, find_checkpoint
from speechmeta.models.speechllm.modeling_speechllm import SpeechLLMForConditionalGeneration
from speechmeta.models.speechllm.processing_speechllm import SpeechLLMProcessor
from speechmeta.models.speechllm.published import is_published, load_published
from speechmeta.models.speechllm.quantization import quantize_int8
from speechmeta.models.weights import load_pretrained
from speechmeta.trust import (
    check_config,
    checkpoint_errors,
    from_checkpoint,
    read_json_object,
)


def load_model(
    name_or_path: str | Path,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    local_files_only: bool = False,
) -> tuple[SpeechLLMForConditionalGeneration, SpeechLLMProcessor]:
    """Loads a checkpoint and its processor, ready for inference.

    Args:
        name_or_path: a folder or hub id, in our layout or in that of `skit-ai/speechllm-*`. No code
            of a checkpoint is ever executed.
        device: `auto` takes CUDA, then MPS, then the CPU.
        dtype: `float32`, `bfloat16`, `float16`, `int8` (weights of the layers, the rest in
            bfloat16), or `auto`: half precision on CUDA, else float32.
        local_files_only: fetch nothing.

    Raises:
        ModelError: the checkpoint cannot be found, reached or read, or does not fit its config.
        UsageError: the device or dtype is not known or not there.
    """
    source = find_checkpoint(name_or_path, local_files_only)
    return load_speechllm(source, read_json_object(source.folder / "config.json"), device, dtype)


def load_speechllm(
    source: Source,
    config: dict[str, Any],
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
) -> tuple[SpeechLLMForConditionalGeneration, SpeechLLMProcessor]:
    """`load_model` for a checkpoint that was found; `config` is its config.json."""
    check_config(config, str(source.folder / "config.json"))
    place = resolve_device(device)
    kind = torch.bfloat16 if dtype == "int8" else resolve_dtype(dtype, place)
    if config.get("model_type") == "speechllm":
        model, processor = _load_own(source, place, kind)
    elif is_published(config):
        with checkpoint_errors(f"cannot load the checkpoint {source.folder}"):
            model, processor = load_published(source, place, kind)
    else:
        raise ModelError(
            f"{source.folder} holds a {config.get('model_type', 'unknown')!r} model",
            "analysis needs a Whisper or SpeechLLM checkpoint; DeSTA2 checkpoints are for "
            "speechmeta chat",
        )
    if dtype == "int8":
        quantize_int8(model)
    # For `model.generate_meta`, which the published checkpoints' users call.
    model.processor = processor
    return model, processor


def _load_own(
    source: Source, device: torch.device, dtype: torch.dtype
) -> tuple[SpeechLLMForConditionalGeneration, SpeechLLMProcessor]:
    with checkpoint_errors(
        f"cannot load the checkpoint {source.folder}",
        "its files are missing, damaged (the download may be cut) or of another version",
    ):
        processor = from_checkpoint(SpeechLLMProcessor, source.folder, local_files_only=True)
        model = load_pretrained(SpeechLLMForConditionalGeneration, source.folder, dtype)
    return model.to(device).eval(), processor
