"""examples/finetune: the configs and the script of the how-to work, at toy size."""

from __future__ import annotations

import json
import os
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml
from conftest import ROOT, RunCli
from tiny import tiny_speechllm

from speechmeta.audio.loading import load_audio, resample
from speechmeta.training.finetune.config import read_config
from speechmeta.training.whisper_meta.heads_recipe import read_heads_recipe

# A training and a model take minutes of a machine that is busy with other work.
pytestmark = pytest.mark.timeout(900)

FOLDER = ROOT / "examples" / "finetune"
GENDERS = {"agent": "Male", "customer": "Female"}


def small(name: str, target: Path, **changes: Any) -> Path:
    """A config of the folder with other values for some of its keys: `crops__made_up=2`."""
    data = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    for path, value in changes.items():
        *sections, key = path.split("__")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    target.write_text(yaml.safe_dump(data), encoding="utf-8")
    return target


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """The turns of the example call as clips, as clips_of_calls.py cuts them."""
    audio = load_audio(ROOT / "examples" / "call.wav")
    told = json.loads((ROOT / "examples" / "call.json").read_text(encoding="utf-8"))
    rows = []
    for number, turn in enumerate(told["turns"]):
        first, last = (round(turn[key] * audio.sample_rate) for key in ("start", "end"))
        channel = audio.waveform[list(GENDERS).index(turn["speaker"]), first:last]
        wave = resample(channel, audio.sample_rate, 16000)
        soundfile.write(tmp_path / f"{number}.wav", wave, 16000)
        rows.append(
            {
                "audio": f"{number}.wav", "duration": round(len(wave) / 16000, 3),
                "dataset": "our-calls", "speaker": f"{turn['speaker']}-{number}", "speech": True,
                "transcript": turn["text"], "gender": GENDERS[turn["speaker"]],
                "commercial": True,
            }
        )  # fmt: skip
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_configs_are_understood(tmp_path: Path) -> None:
    heads = read_heads_recipe(FOLDER / "heads.yaml")
    run = read_config(FOLDER / "speechllm.yaml")
    # Both read what clips_of_calls.py writes.
    assert [heads.train, heads.dev] == [*run.data.manifests, *run.data.evaluation]
    assert "our-calls" in heads.crops.per_clip


@pytest.mark.slow
def test_heads_learn_from_the_clips_of_calls(
    manifest: Path, bundled_dir: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(bundled_dir, checkpoint)
    config = small(
        "heads.yaml", tmp_path / "heads.yaml", checkpoint=str(checkpoint), train=str(manifest),
        dev=str(manifest), work=str(tmp_path / "work"), crops__made_up=2, crops__changed=0.0,
        crops__per_clip={"our-calls": 1}, crops__lengths=[[1.0, 1.0, 2.0]],
        strengths={"Gender": 1.0},
    )  # fmt: skip
    result = run_cli("train", config)
    assert result.code == 0, result.stderr
    assert "heads of" in result.stderr
    written = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    fields = written["heads"]["open"]["fields"]
    # Nobody's age, accent or emotion was in the manifest: no head claims to know it.
    assert set(fields) == {"SpeechActivity", "Gender"}
    assert written["heads"]["open"]["data"] == ["our-calls"]

    from speechmeta import Analyzer

    analyzer = Analyzer(checkpoint, device="cpu", dtype="float32")
    said = analyzer.generate_meta(manifest.parent / "0.wav", fields=["Gender"])
    assert said.gender == GENDERS["agent"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft")
def test_a_speechllm_learns_from_the_clips_of_calls(
    manifest: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    model, processor = tiny_speechllm(5)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    config = small(
        "speechllm.yaml", tmp_path / "speechllm.yaml", model=str(tmp_path / "model"),
        output=str(tmp_path / "run"), data__manifests=[str(manifest)],
        data__evaluation=[str(manifest)], lora__rank=2, lora__alpha=4,
        trainer__max_steps=1, trainer__per_device_train_batch_size=2,
        trainer__gradient_accumulation_steps=1, trainer__bf16=False,
        trainer__dataloader_num_workers=0, trainer__use_cpu=True,
    )  # fmt: skip
    result = run_cli("train", config)
    assert result.code == 0, result.stderr
    final = tmp_path / "run" / "final"
    assert (final / "training.json").is_file()
    # What libraries print is not for users; what was written is for all whom the umask lets.
    printed = result.stdout + result.stderr
    assert "{'" not in printed
    assert "Loading weights" not in printed
    umask = os.umask(0o022)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in final.iterdir()} == {0o666 & ~umask}


@pytest.mark.slow
def test_calls_become_clips_with_a_manifest(bundled_dir: Path, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    calls.mkdir()
    shutil.copy(ROOT / "examples" / "call.wav", calls / "monday.wav")
    (calls / "broken.wav").write_text("no recording")
    script = runpy.run_path(str(FOLDER / "clips_of_calls.py"))
    assert script["main"](calls, tmp_path / "mine") == 0
    train = (tmp_path / "mine" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(train) == 8
    row = json.loads(train[0])
    assert row["speaker"] == "monday-speaker_0"
    assert soundfile.info(tmp_path / "mine" / row["audio"]).duration == pytest.approx(
        row["duration"], abs=0.001
    )
    assert (tmp_path / "mine" / "dev.jsonl").read_text(encoding="utf-8") == ""
