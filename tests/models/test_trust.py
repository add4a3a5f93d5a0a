"""What a checkpoint's config may not ask for, and that no call lets its code run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from speechmeta.chat.model import ChatModel
from speechmeta.diarization.selection import load_embedder
from speechmeta.errors import ModelError
from speechmeta.models.hub import find_checkpoint
from speechmeta.trust import check_config, from_checkpoint, without_code

ROOT = Path(__file__).resolve().parents[2]

OWN = {"ChatModel"}
"""Classes whose `from_pretrained` is ours and takes the safe way itself."""
DATA_ONLY = {"GenerationConfig"}
"""Classes of transformers that read numbers and have nothing to trust."""
TOOLKITS = Path("speechmeta/diarization/toolkits.py")
"""pyannote.audio and NeMo read checkpoints in their own way, which has no such switch: only where
`--speaker-model` names one, which docs/safety.md says."""


def calls_that_may_run_code(tree: ast.AST) -> Iterator[int]:
    """Lines on which transformers could be made to run a checkpoint's code."""
    safe = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        for word in node.keywords:
            refused = isinstance(word.value, ast.Constant) and word.value.value is False
            if word.arg == "trust_remote_code" and refused:
                safe.add(id(node.func))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("from_pretrained", "from_config"):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if id(node) not in safe and owner not in OWN | DATA_ONLY:
                yield node.lineno
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("pipeline", "torch.load"):
            wanted = {"pipeline": "trust_remote_code=False", "torch.load": "weights_only=True"}
            if wanted[ast.unparse(node.func)] not in map(ast.unparse, node.keywords):
                yield node.lineno


@pytest.mark.slow
def test_every_loading_call_in_the_code_refuses_code() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for part in ("speechmeta", "cli", "eval", "benchmarks")
        for path in sorted((ROOT / part).rglob("*.py"))
        if path != ROOT / TOOLKITS
        for line in calls_that_may_run_code(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        "AutoModel.from_pretrained(place)",
        "AutoModel.from_pretrained(place, trust_remote_code=True)",
        "load('x', AutoConfig.from_pretrained, place)",
        "AutoModel.from_config(config)",
        "torch.load(path)",
        "pipeline('automatic-speech-recognition', name)",
    ],
)
def test_the_walk_finds_calls_that_may_run_code(code: str) -> None:
    assert list(calls_that_may_run_code(ast.parse(code)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"attn_implementation": "kernels-community/x"}, "kernels-community/x"),
        ({"text_config": {"_attn_implementation": "evil/kernel:f"}}, "evil/kernel"),
        ({"attn_implementation": {"text_config": "a/b"}}, "a/b"),
        ({"_attn_implementation": "flash_attention_2"}, "flash_attention_2"),
        ({"experts_implementation": "a/b"}, "a/b"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"quantization_config": {}}, "quantisation"),
        ({"quantization_config": ["awq"]}, "awq"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"audio_config": {"encoder_layers": 100_000}}, "encoder_layers"),
        ({"vocab_size": 10**12}, "vocab_size"),
        ({"chunk_length": 10**9}, "chunk_length"),
        ({"feature_size": 10**6}, "feature_size"),
        ({"feature_extractor": {"n_fft": 2**31}}, "n_fft"),
        ({"transformers_weights": "../../x.safetensors"}, "not a file beside it"),
    ],
)
def test_configs_that_reach_for_code_or_absurd_sizes_are_refused(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        check_config(config, "config.json")


@pytest.mark.parametrize("name", ["./nothere", "../nothere", "~/nothere", "/no/where", "a/b/c"])
def test_a_folder_that_is_not_there_is_no_hub_id(name: str) -> None:
    with pytest.raises(ModelError, match=f"there is no folder {name}"):
        from_checkpoint(AutoConfig, name)
    with pytest.raises(ModelError, match=f"there is no checkpoint {name}"):
        find_checkpoint(name)
    for load in (load_embedder, ChatModel.from_pretrained):
        with pytest.raises(ModelError) as caught:
            load(name)
        assert "Repo id" not in str(caught.value)


def test_ordinary_configs_pass_and_lose_the_names_of_code() -> None:
    config = {
        "attn_implementation": "sdpa",
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "num_hidden_layers": 80,
        "parts": [{"auto_map": {}}],
        "sub": {"auto_map": {"AutoModel": "x.Y"}, "hidden_size": 8192},
    }
    check_config(config, "config.json")
    assert without_code(config)["sub"] == {"hidden_size": 8192}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", '{"attn_implementation": "evil/kernel"}', "evil/kernel"),
        ("preprocessor_config.json", '{"chunk_length": 1000000000}', "chunk_length"),
        ("preprocessor_config.json", "[]", "not a JSON object"),
    ],
)
def test_a_checkpoint_by_folder_is_looked_through_before_it_is_read(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)

    class Loader:
        @classmethod
        def from_pretrained(cls, place: Path, **options: Any) -> None:
            pytest.fail("it was read")

    with pytest.raises(ModelError, match=message):
        from_checkpoint(Loader, tmp_path)


def test_an_adapter_of_the_hub_leads_to_no_model_that_was_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import AutoModelForCausalLM, PreTrainedConfig
    from transformers.utils import peft_utils

    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", lambda *_, **__: ({}, {}))
    found = "adapter_config.json"
    monkeypatch.setattr(peft_utils, "find_adapter_config_file", lambda *_, **__: found)
    with pytest.raises(ModelError, match="is an adapter of another model"):
        from_checkpoint(AutoModelForCausalLM, "someone/adapter", local_files_only=True)
