"""Tiny checkpoints in the published SpeechLLM layout, the same on every machine, and their clip.

Their weights are random numbers that depend on a tensor's name and shape alone, so that only what
the reference computes from them has to be kept: `hubert.npz` and `wavlm.npz`, which
`python tests/parity/record.py` makes.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
KINDS = ("hubert", "wavlm")
SAMPLE_RATE = 16_000
VOCABULARY = 520
WIDTH_AUDIO, WIDTH_TEXT = 32, 48
INSTRUCTION = (
    "Give me the following information about the audio "
    "[SpeechActivity, Transcript, Gender, Emotion, Age, Accent]"
)

_ENCODER: dict[str, Any] = {
    "hidden_size": WIDTH_AUDIO,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
}
DECODER: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH_TEXT,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXTRACTOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "do_normalize": True,
    "feature_size": 1,
    "padding_value": 0.0,
    "return_attention_mask": True,
    "sampling_rate": SAMPLE_RATE,
}


def encoder_config(kind: str) -> dict[str, Any]:
    """The audio encoder's config.json."""
    return {**_ENCODER, "model_type": kind}


def clip() -> np.ndarray:
    """1.6 s of tones and noise (samples,), float32 at 16 kHz."""
    time = np.arange(int(1.6 * SAMPLE_RATE)) / SAMPLE_RATE
    tones = sum(np.sin(2 * np.pi * f * time * (1 + 0.1 * time)) / f for f in (130, 410, 1270, 2900))
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (20 * tones * (1 + np.sin(9 * time)) / 2 + 0.01 * noise).astype(np.float32)


def filled(shapes: Mapping[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Weights by name: the numbers are NumPy's, and depend on the name and the shape alone."""
    tensors = {}
    for name, shape in shapes.items():
        values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape))
        if len(shape) < 2:
            values = 0.1 * values + (0.0 if name.endswith("bias") else 1.0)
        elif "embed_tokens" not in name:
            values /= np.prod(shape[1:]) ** 0.5
        if name.endswith("original0"):
            values = np.abs(values) + 0.5
        tensors[name] = torch.from_numpy(values.astype(np.float32))
    return tensors


def shapes_of(kind: str) -> dict[str, torch.Size]:
    """The published layout's tensors and their shapes."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    with torch.device("meta"):
        settings = encoder_config(kind)
        encoder = AutoModel.from_config(
            AutoConfig.for_model(settings.pop("model_type"), **settings)
        )
        settings = dict(DECODER)
        decoder = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(settings.pop("model_type"), **settings)
        )
    half, kernel = WIDTH_TEXT // 2, 5
    convolutions = {"1": (half, WIDTH_AUDIO), "3": (WIDTH_TEXT, half), "5": (WIDTH_TEXT,) * 2}
    shapes = {f"audio_encoder.encoder.{n}": t.shape for n, t in encoder.state_dict().items()}
    for place, (out, into) in convolutions.items():
        shapes[f"connector.layer.{place}.weight"] = torch.Size((out, into, kernel))
        shapes[f"connector.layer.{place}.bias"] = torch.Size((out,))
    shapes |= {f"llm_model.{n}": t.shape for n, t in decoder.state_dict().items()}
    return shapes


def write_checkpoint(kind: str, folder: Path) -> Path:
    """Writes a checkpoint as the fixtures beside the repository are laid out.

    Args:
        kind: one of `KINDS`.
        folder: made anew.
    """
    for name in (kind, "llm", "processor"):
        (folder / name).mkdir(parents=True)
    config = {
        "model_type": "custom_model",
        "audio_enc_dim": WIDTH_AUDIO,
        "llm_dim": WIDTH_TEXT,
        "audio_encoder_name": kind,
        "audio_processor_name": "processor",
        "llm_model_name": "llm",
    }
    for path, data in {
        "config.json": config,
        f"{kind}/config.json": encoder_config(kind),
        "llm/config.json": DECODER,
        "processor/preprocessor_config.json": EXTRACTOR,
        "expected.json": {"instruction": INSTRUCTION},
    }.items():
        (folder / path).write_text(json.dumps(data))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(HERE / "tokenizer" / name, folder / "llm" / name)
    save_file(filled(shapes_of(kind)), folder / "model.safetensors")
    soundfile.write(folder / "clip.wav", clip(), SAMPLE_RATE, subtype="FLOAT")
    if (HERE / f"{kind}.npz").is_file():
        shutil.copy(HERE / f"{kind}.npz", folder / "expected.npz")
    return folder
