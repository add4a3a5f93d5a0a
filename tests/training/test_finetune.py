"""`speechmeta train`: LoRA on a checkpoint, from a config and manifests to a folder that loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import RunCli
from tiny import tiny_speechllm

from speechmeta.decoding.layout import COMPACT_LAYOUT, PUBLISHED_LAYOUT
from speechmeta.errors import DatasetError, UsageError
from speechmeta.models.speechllm import load_model
from speechmeta.training.finetune.clips import ClipDataset, LoadedClip
from speechmeta.training.finetune.config import TrainConfig, read_config
from speechmeta.training.finetune.speechllm import IGNORED, SpeechLLMCollator, taught_values
from speechmeta.training.finetune.trainer import train, training_arguments
from speechmeta.training.manifest import Clip, read_clips

# peft's own calls into transformers, and a tiny model's shared tensors while they are saved.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft"),
    pytest.mark.slow,
]

ROWS: list[dict[str, Any]] = [
    {"transcript": 'She said "hello there".', "gender": "Female", "commercial": True},
    {"transcript": "Good bye", "gender": "Male", "age": "Senior"},
    {"speech": False},
]


def clip(**values: Any) -> Clip:
    known: dict[str, Any] = {
        "audio": Path("a.wav"), "duration": 1.0, "dataset": "d", "speaker": None,
        "speech": True, "transcript": None, "labels": {},
    }  # fmt: skip
    return Clip(**{**known, **values})


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """A tiny checkpoint, six clips of noise, and a run of two steps."""
    model, processor = tiny_speechllm(5)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(0)
    with (tmp_path / "train.jsonl").open("w") as file:
        for number, row in enumerate(ROWS * 2):
            seconds = 0.6 + 0.1 * number
            samples = rng.standard_normal(int(16_000 * seconds)) * 0.1
            soundfile.write(tmp_path / f"{number}.wav", samples, 16_000)
            file.write(json.dumps({"audio": f"{number}.wav", "duration": seconds, **row}) + "\n")
    return TrainConfig.model_validate(
        {
            "model": str(tmp_path / "model"),
            "output": tmp_path / "run",
            "data": {
                "manifests": [tmp_path / "train.jsonl"],
                "evaluation": [tmp_path / "train.jsonl"],
            },
            "lora": {"rank": 2, "alpha": 4, "encoder": True},
            "trainer": {
                "max_steps": 2,
                "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 1,
                "dataloader_num_workers": 0,
                "save_strategy": "steps",
                "save_steps": 1,
                "eval_strategy": "no",
                "learning_rate": 0.01,
                "warmup_steps": 0,
                "disable_tqdm": True,
            },
        }
    )


@pytest.mark.parametrize(
    ("given", "layout", "expected"),
    [
        (
            clip(transcript='Say "hi"\n twice', labels={"Gender": "Male", "Accent": "Europe"}),
            PUBLISHED_LAYOUT,
            {
                "SpeechActivity": "True", "Transcript": "Say 'hi' twice",
                "Gender": "male", "Accent": "europe",
            },
        ),
        (
            clip(transcript="Hello.", labels={"Age": "Senior"}),
            COMPACT_LAYOUT,
            {"SpeechActivity": "True", "Transcript": " Hello.", "Age": "Senior"},
        ),
        (
            clip(labels={"Emotion": "Sad"}),
            COMPACT_LAYOUT,
            {"SpeechActivity": "True", "Emotion": "Sad"},
        ),
        (clip(speech=False, transcript="noise"), PUBLISHED_LAYOUT, {"SpeechActivity": "False"}),
    ],
)  # fmt: skip
def test_a_clip_teaches_the_fields_that_it_knows(
    given: Clip, layout: Any, expected: dict[str, str]
) -> None:
    assert taught_values(given, layout) == expected


@pytest.mark.parametrize("layout", [COMPACT_LAYOUT, PUBLISHED_LAYOUT])
def test_only_the_answer_has_a_loss_and_padding_changes_nothing(layout: Any) -> None:
    model, processor = tiny_speechllm(5, layout=layout)
    rng = np.random.default_rng(1)
    items = [
        LoadedClip(
            clip(transcript=text, labels={"Gender": "Male"}),
            rng.standard_normal(samples).astype(np.float32),
        )
        for text, samples in (("yes i got it", 9_000), ("no", 16_000))
    ]
    collate = SpeechLLMCollator(processor)
    together = collate(items)
    for row, item in enumerate(items):
        taught = together["labels"][row][together["labels"][row] != IGNORED].tolist()
        assert taught[-1] == processor.tokenizer.eos_token_id
        text = processor.tokenizer.decode(taught[:-1])
        assert text.strip() == layout.render(taught_values(item.clip, layout)).strip()
        alone = collate([item])
        with torch.inference_mode():
            expected = model(**alone).logits[0]
            logits = model(**together).logits[row, : len(expected)]
        real = together["labels"][row, : len(expected)] != IGNORED
        torch.testing.assert_close(logits[real], expected[real], atol=2e-4, rtol=1e-3)


def test_a_run_is_resumed_and_its_result_loads(config: TrainConfig) -> None:
    before, _ = load_model(config.model, device="cpu", dtype="float32")
    with torch.inference_mode():  # a caller's, which must not keep the run from learning
        final = train(config)
    assert json.loads((final / "training.json").read_text())["steps"] == 2
    config.trainer["max_steps"] = 3
    config.trainer["eval_strategy"] = "steps"
    config.trainer["eval_steps"] = 1
    train(config, resume=True)
    summary = json.loads((final / "training.json").read_text())
    assert summary["steps"] == 3
    assert summary["clips"] == 6
    assert 0 < summary["trained_parameters"] < summary["parameters"]
    after, processor = load_model(final, device="cpu", dtype="float32")
    changed = {
        name
        for name, weight in after.named_parameters()
        if not torch.equal(weight, before.get_parameter(name))
    }
    assert "multi_modal_projector.conv_in.weight" in changed
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in changed
    assert any(name.startswith("audio_tower.") and "q_proj" in name for name in changed)
    assert not any("norm" in name or "embed_tokens" in name for name in changed)
    inputs = processor(audio=np.zeros(8_000, np.float32), sampling_rate=16_000)
    with torch.inference_mode():
        assert bool(torch.isfinite(after(**inputs).logits).all())


def test_the_loss_falls(config: TrainConfig) -> None:
    config.trainer |= {"max_steps": 30, "save_strategy": "no", "logging_steps": 1}
    config.lora.dropout = 0.0
    dataset = ClipDataset(read_clips(config.data.manifests), 30)
    losses = []
    for folder in (config.model, train(config)):
        model, processor = load_model(folder, device="cpu", dtype="float32")
        batch = SpeechLLMCollator(processor)([dataset[place] for place in range(len(dataset))])
        with torch.inference_mode():
            losses.append(float(model(**batch).loss))
    assert losses[1] < 0.8 * losses[0]


def test_a_damaged_file_ends_no_run(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "0.wav").write_bytes(b"nothing")
    dataset = ClipDataset(read_clips(config.data.manifests), 30)
    assert dataset[0].clip.audio.name == "1.wav"
    for number in range(1, 6):
        (tmp_path / f"{number}.wav").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match="none of the clips"):
        dataset[0]


def test_clips_of_unsuitable_length_are_left_out(config: TrainConfig) -> None:
    clips = read_clips(config.data.manifests)
    assert len(ClipDataset(clips, 0.85)) == 3
    with pytest.raises(DatasetError, match="max_seconds"):
        ClipDataset(clips, 0.5)


def test_the_command_trains_and_notes_how(
    config: TrainConfig, tmp_path: Path, run_cli: RunCli
) -> None:
    path = tmp_path / "config.json"
    config.trainer["max_steps"] = 1
    path.write_text(config.model_dump_json())
    result = run_cli("train", path, "-o", tmp_path / "other", "--commercial-only")
    assert (result.code, "trained checkpoint" in result.stderr) == (0, True)
    assert json.loads((tmp_path / "other/final/training.json").read_text())["clips"] == 2
    refused = run_cli("train", path, "-o", tmp_path / "other")
    assert (refused.code, "--resume" in refused.stderr) == (2, True)
    refused = run_cli("train", path, "-o", tmp_path / "empty", "--resume")
    assert (refused.code, "nothing to resume" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output: x\nmodel: m", "data"),
        ("model: m\noutput: x\ndata: {manifests: [a], nonsense: 1}", r"data\.nonsense"),
        ("model: m\noutput: x\ndata: {manifests: [a]}\nlora: {rank: 0}", r"lora\.rank"),
        ("output: [", "not valid"),
    ],
)
def test_bad_configs_are_named_by_their_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_config(path)
    with pytest.raises(UsageError, match="cannot read"):
        read_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"output_dir": "x"}, "set by the run"),
        ({"eval_strategy": "x"}, "x"),
    ],
)
def test_bad_trainer_arguments_are_usage_errors(
    config: TrainConfig, argument: dict[str, Any], message: str
) -> None:
    config.trainer |= argument
    with pytest.raises(UsageError, match=message):
        training_arguments(config)
