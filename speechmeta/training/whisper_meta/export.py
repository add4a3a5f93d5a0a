"""The finished checkpoint: Whisper's weights in 8 bits, config, tokenizer, feature settings."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmeta.errors import OutputError

if TYPE_CHECKING:
    import torch
    from transformers import WhisperForConditionalGeneration

PREFIX = "whisper."


def stored(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What model.safetensors holds of a Whisper state dict: int8 rows and small float tensors.

    The output matrix is the embedding's and is not stored again; scales and the encoder's
    positions take float16, which their values fit.
    """
    import torch

    from speechmeta.models.whisper_meta.weights import quantized

    named = {PREFIX + name: tensor for name, tensor in state.items() if name != "proj_out.weight"}
    halved = {}
    for name, tensor in quantized(named).items():
        small = name.endswith("::scale") or "embed_positions" in name
        halved[name] = tensor.to(torch.float16) if small else tensor
    return halved


def export(
    model: WhisperForConditionalGeneration,
    original: str,
    folder: Path,
    trailing_silence: float,
    min_seconds: float,
) -> Path:
    """Writes a `whisper_meta` checkpoint without heads into `folder`.

    Args:
        model: tuned to clips of any length.
        original: folder or name of the Whisper model whose tokenizer and settings it takes.
        trailing_silence: seconds of silence that it wants behind a clip.
        min_seconds: shorter clips are filled up to this.

    Raises:
        OutputError: the folder cannot be written.
    """
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, WhisperFeatureExtractor

    from speechmeta.models.whisper_meta.weights import INT8_ROWS

    weights = {name: tensor.float().contiguous() for name, tensor in model.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(stored(weights), folder / "model.safetensors", metadata={"format": "pt"})
        # safetensors leaves files that only their owner may read.
        (folder / "model.safetensors").chmod(0o644)
        whisper_config: dict[str, Any] = model.config.to_dict()
        for name in ("_name_or_path", "transformers_version", "architectures", "dtype"):
            whisper_config.pop(name, None)
        config = {
            "model_type": "whisper_meta",
            "architectures": ["WhisperMetaForConditionalGeneration"],
            "whisper_config": whisper_config,
            "variable_length": True,
            "trailing_silence": trailing_silence,
            "min_seconds": min_seconds,
            "heads": {},
            "default_heads": None,
            "language": "en",
            "quantization": INT8_ROWS,
            "no_speech_taught": True,
        }
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
        generation = copy.deepcopy(model.generation_config)
        if known := getattr(generation, "lang_to_id", None):
            # Tuned on English alone, it answers with English in any language.
            generation.lang_to_id = {code: known[code] for code in known if code == "<|en|>"}
        generation.save_pretrained(folder)
        AutoTokenizer.from_pretrained(original, trust_remote_code=False).save_pretrained(folder)
        WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error}", "check the folder") from error
    return folder
