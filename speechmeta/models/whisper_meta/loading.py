"""Whisper checkpoints of this family and plain ones, from a folder to a model that is ready."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.generation.configuration_utils import GenerationConfig
from transformers.models.whisper.feature_extraction_whisper import WhisperFeatureExtractor

from speechmeta.errors import ModelError, UsageError
from speechmeta.models.devices import (
    fast_cpu_dtype,
    resolve_device,
    resolve_dtype,
    return_freed_memory,
)
from speechmeta.models.hub import Source
from speechmeta.models.weights import fill, load_weights, safetensors_files
from speechmeta.models.whisper_meta.configuration_whisper_meta import WhisperMetaConfig
from speechmeta.models.whisper_meta.modeling_whisper_meta import (
    WhisperMetaForConditionalGeneration,
)
from speechmeta.models.whisper_meta.processing_whisper_meta import WhisperMetaProcessor
from speechmeta.models.whisper_meta.quantization import quantize_linear
from speechmeta.models.whisper_meta.weights import check_quantization, read_quantized
from speechmeta.trust import checkpoint_errors, from_checkpoint, read_json_object


def load_whisper(
    source: Source,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    heads: str | None = None,
) -> tuple[WhisperMetaForConditionalGeneration, WhisperMetaProcessor]:
    """Loads a checkpoint in this family's layout or in transformers' for Whisper.

    Args:
        device: `auto` takes CUDA, then MPS, then the CPU.
        dtype: `float32`, `bfloat16`, `float16`, `int8` (linear layers multiply in 8 bits, CPU
            only), or `auto`: half precision on CUDA, bfloat16 on a CPU that multiplies in it,
            else float32.
        heads: the name of a set of label heads; None for the checkpoint's own choice.

    Raises:
        ModelError: files are missing, damaged or do not fit each other.
        UsageError: the checkpoint has no such heads; the device or dtype is not known.
    """
    folder = source.folder
    place = resolve_device(device)
    quantize = dtype == "int8"
    if quantize and place.type != "cpu":
        raise UsageError("int8 of Whisper runs on the CPU only", "choose --device cpu, or bfloat16")
    kind = torch.float32 if quantize else resolve_dtype(dtype, place, on_cpu=fast_cpu_dtype())
    with _reading(folder):
        config = from_checkpoint(WhisperMetaConfig, folder, local_files_only=True)
    _check_heads(config, heads, folder)
    processor = load_processor(folder, config)
    model = _build(folder, config, kind, place)
    wanted = config.default_heads if heads is None else heads
    if wanted is not None:
        model.set_heads(wanted, folder / (config.heads or {})[wanted]["file"])
    model.eval().requires_grad_(False)
    if quantize:
        quantize_linear(model.whisper)
    return_freed_memory()
    return model, processor


def _build(
    folder: Path, config: WhisperMetaConfig, dtype: torch.dtype, device: torch.device
) -> WhisperMetaForConditionalGeneration:
    """The model without heads. `from_pretrained` gives the same; here nothing is made that is
    overwritten next, no progress is shown, and what does not fit is told by its names."""
    bare = copy.deepcopy(config)
    bare.default_heads = bare.quantization = None
    with _reading(folder), torch.device("meta"):
        model = WhisperMetaForConditionalGeneration(bare)
    tied = (
        {"whisper.proj_out.weight": "whisper.model.decoder.embed_tokens.weight"}
        if config.whisper_config.tie_word_embeddings
        else {}
    )
    if config.quantization is None:
        load_weights(model, safetensors_files(folder), _full_name, tied, dtype, device)
    else:
        check_quantization(config.quantization, folder)
        state = read_quantized(folder, "whisper.", dtype)
        pairs = ((name, partial(state.__getitem__, name)) for name in state)
        fill(model, state.keys(), pairs, folder, tied, dtype, device)
    if (folder / "generation_config.json").is_file():
        with _reading(folder):
            generation = GenerationConfig.from_pretrained(folder, local_files_only=True)
        model.set_generation_config(generation)
    model.config.name_or_path = model.name_or_path = str(folder)
    return model


def _full_name(name: str) -> str:
    """A weight's name in this family, from there or from a plain Whisper checkpoint."""
    return name if name.startswith("whisper.") else f"whisper.{name}"


def load_processor(folder: Path, config: WhisperMetaConfig) -> WhisperMetaProcessor:
    """The processor of a checkpoint folder.

    Raises:
        ModelError: the folder has no tokenizer, or one that does not fit.
    """
    bins = config.whisper_config.num_mel_bins
    with _reading(folder):
        found = (folder / "preprocessor_config.json").is_file()
        extractor = (
            from_checkpoint(WhisperFeatureExtractor, folder, local_files_only=True)
            if found
            else WhisperFeatureExtractor(feature_size=bins)
        )
    if extractor.feature_size != bins:
        raise ModelError(
            f"the checkpoint {folder} takes {bins} mel bins, but its preprocessor_config.json "
            f"makes {extractor.feature_size}",
            "its files do not belong together",
        )
    tokenizer = _load_tokenizer(folder)
    size = config.whisper_config.vocab_size
    if len(tokenizer) > size:
        raise ModelError(
            f"the tokenizer of {folder} has {len(tokenizer)} tokens, the model {size}",
            "its files do not belong together",
        )
    if tokenizer.convert_tokens_to_ids("<|startoftranscript|>") is None:
        raise ModelError(
            f"the tokenizer of {folder} is not Whisper's: it has no <|startoftranscript|>",
            "its files do not belong together",
        )
    return WhisperMetaProcessor.for_config(config, extractor, tokenizer)


def _load_tokenizer(folder: Path) -> Any:
    with _reading(folder):
        if (folder / "tokenizer.json").is_file():
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast(
                tokenizer_file=str(folder / "tokenizer.json"), **_special_tokens(folder)
            )
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            from transformers import WhisperTokenizer

            return from_checkpoint(WhisperTokenizer, folder, local_files_only=True)
    raise ModelError(
        f"the checkpoint {folder} has no tokenizer",
        "put the tokenizer.json of the Whisper that it was made from into the folder",
    )


def _special_tokens(folder: Path) -> dict[str, str]:
    """The end and padding tokens that a tokenizer_config.json names."""
    path = folder / "tokenizer_config.json"
    data = read_json_object(path) if path.is_file() else {}
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    found = {}
    for name in names:
        token = data.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            found[name] = token
    return {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", **found}


def _check_heads(config: WhisperMetaConfig, heads: str | None, folder: Path) -> None:
    if heads is None or heads in (config.heads or {}):
        return
    if not config.heads:
        raise UsageError(
            f"the checkpoint {folder} has no label heads, and {heads} were asked for",
            "leave --heads out, or leave --model out for the bundled checkpoint",
        )
    raise UsageError(
        f"the checkpoint {folder} has no heads {heads!r}", f"choose {' or '.join(config.heads)}"
    )


def _reading(folder: Path) -> AbstractContextManager[None]:
    return checkpoint_errors(
        f"cannot load the checkpoint {folder}",
        "its files are missing, damaged (the download may be cut) or do not belong together",
    )


__all__ = ["load_processor", "load_whisper"]
