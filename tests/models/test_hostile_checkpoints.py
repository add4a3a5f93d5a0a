"""No code of a checkpoint runs, nobody is asked, and damage is a `ModelError`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from desta_tiny import Shape, make_checkpoint
from tiny import tiny_speechllm

from speechmeta.errors import ModelError
from speechmeta.models.desta2.loading import load_desta
from speechmeta.models.speechllm import load_model


def test_a_folder_with_code_is_refused_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ran = tmp_path / "m", tmp_path / "ran"
    (folder / "w").mkdir(parents=True)
    (folder / "config.json").write_text('{"whisper_model_id": "w", "llama_model_id": "l"}')
    (folder / "w" / "config.json").write_text(
        '{"model_type": "evilwhisper", "auto_map": {"AutoConfig": "evil.X"}}'
    )
    (folder / "w" / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass X: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    with pytest.raises(ModelError, match="code of its own"):
        load_desta(folder, "cpu", local_files_only=True)
    assert not ran.exists()


def test_published_configs_that_name_code_load_without_it(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", Shape("desta2"))
    ran = tmp_path / "ran"
    (folder / "modeling_desta.py").write_text(f"open({str(ran)!r}, 'w')\n")
    for config in folder.rglob("config.json"):
        data = json.loads(config.read_text())
        data["auto_map"] = {"AutoModel": "evil.X", "AutoConfig": "evil.X"}
        config.write_text(json.dumps(data))
        (config.parent / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    load_desta(folder, "cpu", local_files_only=True)
    assert not ran.exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    model, processor = tiny_speechllm()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _halved(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return apply


def _written(name: str, text: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_text(text)

    return apply


def _config(**values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**data, **values}))

    return apply


_OUTSIDE = '{"metadata": {}, "weight_map": {"x": "../outside.safetensors"}}'


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_halved("model.safetensors"), "download may be cut"),
        (_written("model.safetensors", "junk"), "download may be cut"),
        (_halved("tokenizer.json"), "download may be cut"),
        (_written("config.json", "[" * 100_000), "nested too deeply|download may be cut"),
        (_written("config.json", '{"a":' * 900 + "1" + "}" * 900), "nested|deep"),
        (_written("model.safetensors.index.json", _OUTSIDE), "not a file beside it"),
        (_config(text_config={"model_type": "no-such-model"}), "cannot load"),
        (_config(text_config="llama"), "cannot load"),
        (_config(label_sets=7), "cannot load"),
    ],
)
def test_a_damaged_checkpoint_is_a_model_error(
    whole: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(whole, folder)
    damage(folder)
    with pytest.raises(ModelError, match=message):
        load_model(folder, "cpu", local_files_only=True)
