"""The recipe's script turns a CTranslate2 file into the model that it was made from."""

from __future__ import annotations

import importlib.util
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

SCRIPT = Path(__file__).parents[2] / "recipes" / "whisper_meta" / "original.py"
IDS = {"<|notimestamps|>": 50_363, "<|transcribe|>": 50_359, "<|translate|>": 50_358}


@pytest.fixture(scope="module")
def original() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("original", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["original"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["original"]


@pytest.fixture(scope="module")
def model() -> WhisperForConditionalGeneration:
    torch.manual_seed(3)
    end = 50_257
    config = WhisperConfig(
        vocab_size=51_865,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=1,
        decoder_attention_heads=1,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=end + 1,
    )
    return WhisperForConditionalGeneration(config).half().float().eval()


def as_published(model: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """The variables of CTranslate2's converter, float16."""
    found: dict[str, Any] = {"encoder/num_heads": np.array(1, dtype=np.int16)}

    def put(name: str, *modules: Any) -> None:
        found[f"{name}/weight"] = torch.cat([item.weight for item in modules])
        widths = [item.weight.shape[0] for item in modules]
        biases = [
            item.bias if item.bias is not None else torch.zeros(width)
            for item, width in zip(modules, widths, strict=True)
        ]
        found[f"{name}/bias"] = torch.cat(biases)

    def norm(name: str, module: Any) -> None:
        found[f"{name}/gamma"], found[f"{name}/beta"] = module.weight, module.bias

    for side, part in (("encoder", model.model.encoder), ("decoder", model.model.decoder)):
        found[f"{side}/position_encodings/encodings"] = part.embed_positions.weight
        norm(f"{side}/layer_norm", part.layer_norm)
        for number, layer in enumerate(part.layers):
            at, own = f"{side}/layer_{number}", layer.self_attn
            put(f"{at}/self_attention/linear_0", own.q_proj, own.k_proj, own.v_proj)
            put(f"{at}/self_attention/linear_1", own.out_proj)
            norm(f"{at}/self_attention/layer_norm", layer.self_attn_layer_norm)
            if side == "decoder":
                cross = layer.encoder_attn
                put(f"{at}/attention/linear_0", cross.q_proj)
                put(f"{at}/attention/linear_1", cross.k_proj, cross.v_proj)
                put(f"{at}/attention/linear_2", cross.out_proj)
                norm(f"{at}/attention/layer_norm", layer.encoder_attn_layer_norm)
            put(f"{at}/ffn/linear_0", layer.fc1)
            put(f"{at}/ffn/linear_1", layer.fc2)
            norm(f"{at}/ffn/layer_norm", layer.final_layer_norm)
    put("encoder/conv1", model.model.encoder.conv1)
    put("encoder/conv2", model.model.encoder.conv2)
    found["decoder/embeddings/weight"] = model.model.decoder.embed_tokens.weight
    return {
        name: value if isinstance(value, np.ndarray) else value.detach().half().numpy()
        for name, value in found.items()
    }


def written(tensors: dict[str, np.ndarray]) -> bytes:
    """The bytes of a model file of version 6."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    kinds = ["float32", "int8", "int16", "int32", "float16"]
    data = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(tensors))
    for name, value in tensors.items():
        data += text(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        data += struct.pack("<BI", kinds.index(value.dtype.name), value.nbytes) + value.tobytes()
    return data


def test_what_is_read_is_the_model(
    original: ModuleType, model: WhisperForConditionalGeneration
) -> None:
    tensors = original.read_tensors(written(as_published(model)))
    made = original.make_model(tensors, [[1, 0]], IDS)
    expected = model.state_dict()
    assert made.state_dict().keys() == expected.keys()
    for name, value in made.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert made.config.encoder_layers == made.config.decoder_layers == 2
    assert made.generation_config.alignment_heads == [[1, 0]]
    assert made.generation_config.is_multilingual


def test_weights_without_a_place_are_refused(
    original: ModuleType, model: WhisperForConditionalGeneration
) -> None:
    tensors = as_published(model) | {"encoder/layer_0/gate/weight": np.zeros((2, 2), np.float16)}
    with pytest.raises(SystemExit, match="layer_0/gate"):
        original.make_model(tensors, [], IDS)


def test_files_of_another_kind_are_refused(original: ModuleType) -> None:
    data = struct.pack("<IH", 6, 16) + b"TransformerSpec\0"
    with pytest.raises(SystemExit, match="TransformerSpec of version 6"):
        original.read_tensors(data)


def test_a_folder_that_is_there_is_not_overwritten(
    original: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["original.py", "base", str(tmp_path)])
    with pytest.raises(SystemExit, match="there already"):
        original.main()
