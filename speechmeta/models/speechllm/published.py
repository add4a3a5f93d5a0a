"""The layout of `skit-ai/speechllm-2B` and `-1.5B`, loaded without executing their code.

The published folders hold a flat config that names three other models, and one state dict
with `audio_encoder.encoder.*`, `connector.layer.{1,3,5}.*` and `llm_model.*`.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    Wav2Vec2FeatureExtractor,
)

from speechmeta.decoding.layout import PUBLISHED_LAYOUT
from speechmeta.errors import ModelError
from speechmeta.models.hub import Source
from speechmeta.models.speechllm.backbones import AUDIO_ENCODERS, DECODERS, FEATURE_EXTRACTORS
from speechmeta.models.speechllm.configuration_speechllm import SpeechLLMConfig
from speechmeta.models.speechllm.modeling_speechllm import SpeechLLMForConditionalGeneration
from speechmeta.models.speechllm.processing_speechllm import SpeechLLMProcessor
from speechmeta.models.weights import load_pretrained, safetensors_files, tensor_names
from speechmeta.trust import (
    check_config,
    checkpoint_errors,
    from_checkpoint,
    read_json_object,
    without_code,
)

_NEEDED = ("audio_encoder_name", "llm_model_name")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
_TOKENIZER_PATTERNS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json")

_RENAMED = {
    r"^audio_encoder\.encoder\.": "audio_tower.",
    r"^connector\.layer\.1\.": "multi_modal_projector.conv_in.",
    r"^connector\.layer\.3\.": "multi_modal_projector.conv_down.",
    r"^connector\.layer\.5\.": "multi_modal_projector.conv_out.",
    r"^llm_model\.": "language_model.",
    r"\.conv\.weight_g$": ".conv.parametrizations.weight.original0",
    r"\.conv\.weight_v$": ".conv.parametrizations.weight.original1",
}
"""Published names as patterns, and ours: transformers' `key_mapping`."""
_MASK = "audio_encoder.encoder.masked_spec_embed"


def is_published(config: dict[str, Any]) -> bool:
    """Whether a `config.json` is of the published layout."""
    return "speechllm" not in config.get("model_type", "") and all(k in config for k in _NEEDED)


def load_published(
    source: Source, device: torch.device, dtype: torch.dtype
) -> tuple[SpeechLLMForConditionalGeneration, SpeechLLMProcessor]:
    """Loads a checkpoint folder in the published layout.

    Args:
        source: the checkpoint; other models that it names are looked for beside it first.

    Raises:
        ModelError: a file is missing or cannot be reached, keys or shapes do not fit.
    """
    data = read_json_object(source.folder / "config.json")
    for key in _NEEDED:
        if not isinstance(data[key], str) or not data[key]:
            raise ModelError(
                f"{source.folder / 'config.json'}: {key} is {data[key]!r}",
                "it names a model: a folder beside the checkpoint, or a hub id",
            )
    names = tensor_names(safetensors_files(source.folder))
    audio_config = _sub_config(source, data["audio_encoder_name"], AUDIO_ENCODERS)
    text_config = _sub_config(source, data["llm_model_name"], DECODERS)
    for key, config in (("audio_enc_dim", audio_config), ("llm_dim", text_config)):
        if key in data and data[key] != config.hidden_size:
            raise ModelError(
                f"{source.folder / 'config.json'}: {key} is {data[key]}, but the "
                f"{config.model_type} model it names is {config.hidden_size} wide",
                "the checkpoint and its sub-models do not belong together",
            )
    if _MASK not in names:
        # Only training uses it, and whether it was saved depends on these two.
        audio_config.mask_time_prob = audio_config.mask_feature_prob = 0.0
    config = SpeechLLMConfig(
        audio_config=audio_config, text_config=text_config, layout=PUBLISHED_LAYOUT.to_dict()
    )
    model = load_pretrained(
        SpeechLLMForConditionalGeneration,
        source.folder,
        dtype,
        config=config,
        key_mapping=_RENAMED,
    )
    # The published config.json says nothing of when answers end; the decoder's config does.
    model.generation_config = GenerationConfig.from_model_config(config)
    tokenizer = _tokenizer(source, data["llm_model_name"])
    extractor = _feature_extractor(
        source, data.get("audio_processor_name", data["audio_encoder_name"])
    )
    return model.to(device).eval(), SpeechLLMProcessor.for_config(config, extractor, tokenizer)


def fetch_companions(source: Source) -> None:
    """Fetches what a published checkpoint names and does not hold: configs and a tokenizer.

    Raises:
        ModelError: they cannot be had.
    """
    data = read_json_object(source.folder / "config.json")
    _sub_config(source, data["audio_encoder_name"], AUDIO_ENCODERS)
    _sub_config(source, data["llm_model_name"], DECODERS)
    _tokenizer(source, data["llm_model_name"])
    _feature_extractor(source, data.get("audio_processor_name", data["audio_encoder_name"]))


def _sub_config(source: Source, name: str, known: dict[str, dict[str, Any]]) -> PreTrainedConfig:
    folder = source.beside(name, "config.json")
    if folder is not None:
        data = read_json_object(folder / "config.json")
    elif name in known:
        data = dict(known[name])
    else:
        data = read_json_object(source.fetch(name, ["config.json"]) / "config.json")
    check_config(data, f"the config of {name}")
    data = without_code(data)
    model_type = data.pop("model_type", None)
    try:
        config: PreTrainedConfig = AutoConfig.for_model(model_type, **data)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"the config of {name} cannot be used: {error}", "fetch the file again"
        ) from error
    return config


def _tokenizer(source: Source, name: str) -> Any:
    places = [source.beside(name, *_TOKENIZER_FILES)]
    if any((source.folder / file).is_file() for file in _TOKENIZER_FILES):
        places.append(source.folder)
    folder = next((place for place in places if place is not None), None)
    if folder is None:
        folder = source.fetch(name, list(_TOKENIZER_PATTERNS))
    with checkpoint_errors(f"cannot read the tokenizer of {name} in {folder}"):
        tokenizer = from_checkpoint(AutoTokenizer, folder, local_files_only=True)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _feature_extractor(source: Source, name: str) -> Wav2Vec2FeatureExtractor:
    folder = source.beside(name, "preprocessor_config.json") or source.cached(
        name, "preprocessor_config.json"
    )
    if folder is not None:
        data = read_json_object(folder / "preprocessor_config.json")
    elif name in FEATURE_EXTRACTORS:
        data = dict(FEATURE_EXTRACTORS[name])
    else:
        data = read_json_object(
            source.fetch(name, ["preprocessor_config.json"]) / "preprocessor_config.json"
        )
    data.pop("feature_extractor_type", None)
    extractor: Wav2Vec2FeatureExtractor = Wav2Vec2FeatureExtractor(**data)
    return extractor
