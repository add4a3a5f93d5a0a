"""Configs of the hub models that published SpeechLLM checkpoints are built from.

A published checkpoint holds all weights and names its parts by hub ids. With their configs
here, nothing but the checkpoint and a tokenizer has to be fetched. Values as in the models'
own `config.json` and `preprocessor_config.json` on the hub.
"""

from __future__ import annotations

from typing import Any

_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}
_XLARGE: dict[str, Any] = {
    **_LARGE,
    "hidden_size": 1280,
    "num_hidden_layers": 48,
    "intermediate_size": 5120,
}
_LAYER_NORM_CONVS: dict[str, Any] = {"conv_bias": True, "feat_proj_layer_norm": True}

AUDIO_ENCODERS: dict[str, dict[str, Any]] = {
    "facebook/hubert-base-ls960": {"model_type": "hubert"},
    "facebook/hubert-large-ll60k": {"model_type": "hubert", **_LARGE, **_LAYER_NORM_CONVS},
    "facebook/hubert-xlarge-ll60k": {"model_type": "hubert", **_XLARGE, **_LAYER_NORM_CONVS},
    "facebook/hubert-large-ls960-ft": {"model_type": "hubert", **_LARGE, **_LAYER_NORM_CONVS},
    "facebook/hubert-xlarge-ls960-ft": {"model_type": "hubert", **_XLARGE, **_LAYER_NORM_CONVS},
    "microsoft/wavlm-base": {"model_type": "wavlm"},
    "microsoft/wavlm-base-plus": {"model_type": "wavlm"},
    "microsoft/wavlm-large": {"model_type": "wavlm", **_LARGE},
}

_TINY_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}

DECODERS: dict[str, dict[str, Any]] = {
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": _TINY_LLAMA,
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": _TINY_LLAMA,
}

_EXTRACTOR: dict[str, Any] = {"feature_size": 1, "sampling_rate": 16_000, "padding_value": 0.0}

FEATURE_EXTRACTORS: dict[str, dict[str, Any]] = {
    # The base WavLM models take the waveform as it is; all others take it normalised.
    name: {**_EXTRACTOR, "do_normalize": not name.startswith("microsoft/wavlm-base")}
    for name in AUDIO_ENCODERS
}
