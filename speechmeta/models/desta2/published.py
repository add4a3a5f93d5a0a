"""Reads DeSTA2's and DeSTA2.5-Audio's published checkpoints, without running their code.

A published checkpoint is a `config.json` with the names of Whisper and of the decoder, and
the connector's weights; the two models are loaded from where the names lead.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from speechmeta.errors import ModelError
from speechmeta.models.desta2.configuration_desta2 import DestaConfig
from speechmeta.models.desta2.modeling_desta2 import DestaConnector, DestaForConditionalGeneration
from speechmeta.models.desta2.processing_desta2 import DestaProcessor
from speechmeta.trust import (
    checkpoint_errors,
    from_checkpoint,
    read_json_object,
    shard_names,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Which states of which Whisper the published connectors read. DeSTA2 counts the sum of
# convolutions and positions as entry 0, DeSTA2.5 counts layers only.
_STATES_DESTA2 = {
    "tiny": [0, 1, 2, 3],
    "small": [2, 5, 8, 11],
    "medium": [5, 11, 17, 23],
    "large-v3": [3, 7, 11, 15, 19, 23, 27, 31],
}
_LAYERS_DESTA25 = {**_STATES_DESTA2, "large-v3": [7, 15, 23, 31]}

_DESTA2_FILES = ("qformer_connector.safetensors", "qformer_connector.pth")
_DESTA25_FILES = ("model.safetensors", "model.safetensors.index.json")
_DESTA25_PREFIX = "perception.connector."
CHECKPOINT_FILES = ("config.json", *_DESTA2_FILES, "model*.safetensors", _DESTA25_FILES[1])
"""What is fetched of a published checkpoint on the hub: no code."""


def is_published(config: dict[str, Any]) -> bool:
    """Whether a `config.json` is one of the two published layouts."""
    return "whisper_model_id" in config or "encoder_model_id" in config


def load_published(
    folder: Path,
    dtype: torch.dtype | str,
    local_files_only: bool,
    llm_options: dict[str, Any],
) -> tuple[DestaForConditionalGeneration, DestaProcessor]:
    """Model and processor of a published checkpoint.

    Args:
        folder: the checkpoint's folder; the sub-models' names are folders in it, else hub ids.
        dtype: of the decoder, or "auto" for that of its files.
        local_files_only: never use the network.
        llm_options: further arguments of the decoder's `from_pretrained`, such as
            `quantization_config` and `device_map`.

    Raises:
        ModelError: a file is missing, or config and weights do not fit.
    """
    raw = read_config(folder)
    variant = "desta2" if "whisper_model_id" in raw else "desta25"
    audio_name = _name(raw, "whisper_model_id" if variant == "desta2" else "encoder_model_id")
    text_name = _name(raw, "llama_model_id" if variant == "desta2" else "llm_model_id")
    audio_place, text_place = _place(folder, audio_name), _place(folder, text_name)
    common = {"local_files_only": local_files_only}
    audio_config = _load("Whisper", audio_name, AutoConfig, audio_place, **common)
    text_config = _load("decoder", text_name, AutoConfig, text_place, **common)
    config = _config(raw, variant, audio_name, text_name, audio_config, text_config)
    # The connector first: it is small, and where checkpoints are broken.
    connector = DestaConnector(config)
    _fill(connector, *_connector_weights(folder, variant))

    whisper = _load(
        "Whisper",
        audio_name,
        WhisperForConditionalGeneration,
        audio_place,
        dtype=torch.float32,
        use_safetensors=True,
        **common,
    )
    language_model = _load(
        "decoder",
        text_name,
        AutoModelForCausalLM,
        text_place,
        dtype=dtype,
        use_safetensors=True,
        **llm_options,
        **common,
    )
    processor = DestaProcessor.for_config(
        config,
        feature_extractor=_load(
            "Whisper", audio_name, WhisperFeatureExtractor, audio_place, **common
        ),
        tokenizer=_load("decoder", text_name, AutoTokenizer, text_place, **common),
        asr_tokenizer=_load("Whisper", audio_name, WhisperTokenizer, audio_place, **common),
    )
    with torch.device("meta"):
        model = DestaForConditionalGeneration(config)
    model.audio_tower = whisper
    model.multi_modal_projector = connector
    model.language_model = language_model
    model.config.text_config.dtype = language_model.dtype
    # The published loading leaves dropout active; answers then differ from call to call.
    return model.eval(), processor


def save_published(model: DestaForConditionalGeneration, folder: Path) -> None:
    """Writes the connector and a config in the published layout (weights as safetensors).

    The names of Whisper and of the decoder are those in the model's config; it is for the
    caller to make them absolute if they were relative to another folder.
    """
    from safetensors.torch import save_file

    config = model.config
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().float().cpu().contiguous()
        for name, tensor in model.multi_modal_projector.state_dict().items()
    }
    raw: dict[str, Any] = {
        "prompt_size": config.prompt_size,
        "qformer_num_hidden_layers": config.qformer_layers,
    }
    if config.variant == "desta2":
        raw |= {
            "model_type": "DestaModel",
            "whisper_model_id": config.audio_name,
            "llama_model_id": config.text_name,
            "target_layer_ids": config.tapped_states,
        }
        file = _DESTA2_FILES[0]
    else:
        raw |= {
            "model_type": "desta25",
            "connector_mode": "qformer_1",
            "encoder_model_id": config.audio_name,
            "llm_model_id": config.text_name,
            "target_layer_ids": [state - 1 for state in config.tapped_states],
            "audio_locator": config.audio_locator,
            "placeholder_token": config.placeholder_token,
            "use_lora": False,
        }
        weights = {_DESTA25_PREFIX + name: tensor for name, tensor in weights.items()}
        file = _DESTA25_FILES[0]
    save_file(weights, folder / file)
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def load_connector(model: DestaForConditionalGeneration, folder: Path) -> None:
    """Loads the connector that `save_published` wrote into a model that is there.

    Raises:
        ModelError: the file is missing or does not fit.
    """
    _fill(model.multi_modal_projector, *_connector_weights(folder, model.config.variant))


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's `config.json` as it is."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} has no readable config.json", "name a checkpoint's folder or a hub id"
        )
    return read_json_object(folder / "config.json")


def _name(raw: dict[str, Any], key: str) -> str:
    name = raw.get(key)
    if not isinstance(name, str) or not name:
        raise ModelError(f"the checkpoint's config.json has no {key}", "it names a sub-model")
    return name


def _place(folder: Path, name: str) -> str:
    inside = folder / name
    return str(inside) if inside.is_dir() else name


def _load(what: str, name: str, loader: Any, place: str, **options: Any) -> Any:
    with checkpoint_errors(
        f"the checkpoint's {what} {name!r} cannot be loaded",
        "put it in a folder of that name inside the checkpoint, or allow the download (set "
        "HF_TOKEN for gated models); a download may be cut",
    ):
        return from_checkpoint(loader, place, **options)


def _config(
    raw: dict[str, Any],
    variant: str,
    audio_name: str,
    text_name: str,
    audio: PreTrainedConfig,
    text: PreTrainedConfig,
) -> DestaConfig:
    if raw.get("use_lora"):
        raise ModelError(
            "the checkpoint was trained with LoRA in its decoder", "merge the LoRA weights first"
        )
    if raw.get("connector_mode", "qformer_1") != "qformer_1":
        raise ModelError(f"the checkpoint's connector {raw['connector_mode']!r} is not known")
    if getattr(audio, "model_type", None) != "whisper":
        raise ModelError(f"{audio_name!r} is a {audio.model_type!r} model, not Whisper")
    table = _STATES_DESTA2 if variant == "desta2" else _LAYERS_DESTA25
    tapped = raw.get("target_layer_ids")
    if tapped is None:
        size = Path(audio_name).name.removeprefix("whisper-")
        if size not in table:
            raise ModelError(
                f"it is not known which layers of {audio_name!r} the connector reads",
                f"known are whisper-{', whisper-'.join(table)}; else config.json needs "
                "target_layer_ids",
            )
        tapped = table[size]
    try:
        return DestaConfig(
            audio_config=audio,
            text_config=text,
            variant=variant,
            tapped_states=[int(i) + (variant == "desta25") for i in tapped],
            final_norm=variant == "desta2",
            prompt_size=int(raw.get("prompt_size", 64)),
            qformer_layers=int(raw.get("qformer_num_hidden_layers", 2)),
            audio_locator=raw.get("audio_locator", "<|AUDIO|>"),
            placeholder_token=raw.get("placeholder_token", "<|reserved_special_token_87|>"),
            audio_name=audio_name,
            text_name=text_name,
        )
    except (ValueError, TypeError) as error:
        raise ModelError(f"the checkpoint's config.json does not fit: {error}") from error


def _connector_weights(folder: Path, variant: str) -> tuple[dict[str, torch.Tensor], str, str]:
    """Weights by published name, the prefix that names the connector, and the file's name."""
    from safetensors.torch import load_file

    names = _DESTA2_FILES if variant == "desta2" else _DESTA25_FILES
    prefix = "" if variant == "desta2" else _DESTA25_PREFIX
    for name in names:
        path = folder / name
        if not path.is_file():
            continue
        with checkpoint_errors(f"{path} cannot be read"):
            if name.endswith(".pth"):
                weights = torch.load(path, map_location="cpu", weights_only=True)
            elif name.endswith(".index.json"):
                weights = {}
                for part in shard_names(path):
                    weights |= load_file(folder / part)
            else:
                weights = load_file(path)
        if not isinstance(weights, dict):
            raise ModelError(f"{path} holds no state dict", "download it again")
        return weights, prefix, name
    raise ModelError(f"{folder} has none of {', '.join(names)}", "download the checkpoint again")


def _fill(
    connector: DestaConnector, weights: dict[str, torch.Tensor], prefix: str, file: str
) -> None:
    """Loads a state dict; every key has to be there, once, and of the right shape."""
    wanted = {prefix + name: tensor for name, tensor in connector.state_dict().items()}
    _refuse(f"{file} lacks", wanted.keys() - weights.keys())
    _refuse(f"{file} has unexpected", weights.keys() - wanted.keys())
    wrong = [
        f"{name} {tuple(weights[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if not isinstance(weights[name], torch.Tensor) or weights[name].shape != tensor.shape
    ]
    _refuse(f"{file} has other shapes than config.json and the sub-models ask for:", wrong)
    connector.load_state_dict({name.removeprefix(prefix): weights[name] for name in wanted})


def _refuse(what: str, names: Iterable[str]) -> None:
    found = sorted(names)
    if found:
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise ModelError(
            f"{what} {', '.join(found[:8])}{more}", "the file belongs to another checkpoint"
        )


__all__ = [
    "CHECKPOINT_FILES",
    "is_published",
    "load_connector",
    "load_published",
    "read_config",
    "save_published",
]
