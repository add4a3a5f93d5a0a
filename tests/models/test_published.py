"""Published checkpoints against recorded results of the reference implementation."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from parity.checkpoints import KINDS, write_checkpoint
from safetensors.torch import load_file, save_file

from speechmeta.errors import ModelError, OutputError
from speechmeta.models.speechllm import convert_checkpoint, load_model

pytestmark = pytest.mark.slow


@pytest.fixture(params=[f"{source} {kind}" for kind in KINDS for source in ("own", "shared")])
def fixture_folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint with recorded results: ours (`tests/parity`), or one beside the repository."""
    source, kind = request.param.split()
    if source == "own":
        return write_checkpoint(kind, tmp_path_factory.mktemp("parity") / kind)
    shared: Path = request.getfixturevalue("shared_dir")
    return shared / "fixtures" / f"speechllm_{kind}"


@pytest.fixture
def copy(fixture_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    shutil.copytree(fixture_folder, folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def read_clip(folder: Path) -> tuple[np.ndarray, int]:
    wave, rate = soundfile.read(folder / "clip.wav", dtype="float32")
    return wave, rate


def last_logits(folder: Path, reference: Path) -> torch.Tensor:
    model, processor = load_model(folder, device="cpu", dtype="float32", local_files_only=True)
    wave, rate = read_clip(reference)
    inputs = processor(audio=wave, sampling_rate=rate, instruction=instruction(reference))
    with torch.inference_mode():
        logits: torch.Tensor = model(**inputs).logits[:, -1]
    return logits


def instruction(folder: Path) -> str:
    return str(json.loads((folder / "expected.json").read_text())["instruction"])


def test_published_checkpoints_give_the_recorded_results(fixture_folder: Path) -> None:
    expected = np.load(fixture_folder / "expected.npz")
    model, processor = load_model(fixture_folder, device="cpu", local_files_only=True)
    wave, rate = read_clip(fixture_folder)
    inputs = processor(
        audio=wave,
        sampling_rate=rate,
        instruction=instruction(fixture_folder),
        return_tensors="pt",
    )
    with torch.inference_mode():
        output = model(**inputs)
        features = output.audio_features
        merged = model.merge_inputs(inputs["input_ids"], features.embeds, features.lengths)
        ids = model.generate(**inputs, max_new_tokens=24, min_new_tokens=24, do_sample=False)
    for name, value in {
        "encoder_hidden": features.encoder_hidden,
        "speech_embeds": features.embeds,
        "inputs_embeds": merged,
        "last_logits": output.logits[:, -1],
    }.items():
        assert value.shape == expected[name].shape
        assert np.abs(value.numpy() - expected[name]).max() < 1e-4, name
    new = ids[:, inputs["input_ids"].shape[1] :]
    assert new.tolist() == expected["generated_ids"].tolist()


def test_default_instruction_is_that_of_the_reference(fixture_folder: Path) -> None:
    _, processor = load_model(fixture_folder, device="cpu")
    assert processor.instruction_for() == instruction(fixture_folder)


def test_batch_gives_the_logits_of_single_clips(fixture_folder: Path) -> None:
    model, processor = load_model(fixture_folder, device="cpu")
    wave, rate = read_clip(fixture_folder)
    waves = [wave, wave[:20_000], wave[5_000:31_000]]
    with torch.inference_mode():
        batch = model(**processor(audio=waves, sampling_rate=rate)).logits[:, -1]
        single = torch.cat(
            [model(**processor(audio=w, sampling_rate=rate)).logits[:, -1] for w in waves]
        )
    assert (batch - single).abs().max() < 1e-4


def test_old_names_of_the_weight_norm(copy: Path, fixture_folder: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    renamed = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in tensors.items()
    }
    assert any(name.endswith("weight_g") for name in renamed)
    save_file(renamed, copy / "model.safetensors")
    assert torch.equal(
        last_logits(copy, fixture_folder), last_logits(fixture_folder, fixture_folder)
    )


def test_shards_give_the_logits_of_one_file(copy: Path, fixture_folder: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, copy / file)
        weight_map.update(dict.fromkeys(part, file))
    (copy / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": weight_map}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(
        last_logits(copy, fixture_folder), last_logits(fixture_folder, fixture_folder)
    )
    (copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="lacks model-00002-of-00002"):
        load_model(copy)


def test_sub_models_beside_the_checkpoint(copy: Path, fixture_folder: Path) -> None:
    for part in (fixture_folder.name.removeprefix("speechllm_"), "llm", "processor"):
        shutil.move(copy / part, copy.parent / part)
    assert torch.equal(
        last_logits(copy, fixture_folder), last_logits(fixture_folder, fixture_folder)
    )


def test_remote_code_is_not_executed(copy: Path, fixture_folder: Path, tmp_path: Path) -> None:
    for name in ("config.py", "model.py"):
        (copy / name).write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    last_logits(copy, fixture_folder)
    assert not (tmp_path / "executed").exists()


def test_converted_checkpoint_has_equal_logits(fixture_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "own"
    convert_checkpoint(fixture_folder, target)
    umask = os.umask(0)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in target.iterdir()} == {0o666 & ~umask}
    assert torch.equal(
        last_logits(target, fixture_folder), last_logits(fixture_folder, fixture_folder)
    )
    with pytest.raises(OutputError, match="not empty"):
        convert_checkpoint(fixture_folder, target)


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


def edit_config(**values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**data, **values}))

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            edit_weights(lambda t: t.pop("connector.layer.3.bias")),
            "lacks multi_modal_projector.conv_down.bias",
        ),
        (edit_weights(lambda t: t.update(extra=torch.zeros(1))), "unexpected extra"),
        (
            edit_weights(lambda t: t.update({"connector.layer.1.bias": torch.zeros(3)})),
            r"wrong shapes: multi_modal_projector.conv_in.bias \[3\] for",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"junk"), "cannot read the weights"),
        (lambda f: (f / "model.safetensors").unlink(), "no safetensors weights"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not JSON"),
        (lambda f: (f / "llm/tokenizer.json").write_text("{}"), "cannot read the tokenizer"),
        (edit_config(llm_dim=99), "llm_dim is 99"),
        (edit_config(llm_model_name="nowhere"), "'nowhere' that is not beside it"),
        (edit_config(llm_model_name="no/where"), "no/where is not on this machine"),
        (edit_config(audio_encoder_name=None, llm_model_name=None), "audio_encoder_name is None"),
    ],
)
def test_damage_is_named(copy: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(copy)
    with pytest.raises(ModelError, match=message):
        load_model(copy, local_files_only=True)


def test_pickled_weights_are_not_loaded(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    torch.save(tensors, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"only pytorch_model\.bin"):
        load_model(copy)


def test_hub_id_without_network() -> None:
    with pytest.raises(ModelError, match="skit-ai/speechllm-2B is not on this machine"):
        load_model("skit-ai/speechllm-2B", local_files_only=True)
