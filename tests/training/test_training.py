"""Training: configs, a run of a few steps, its resumption and what follows it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RunCli
from safetensors.torch import load_file
from training_tiny import tiny_config

from speechmeta.decoding.ngram import NgramModel
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.words import WordModel
from speechmeta.errors import UsageError
from speechmeta.models.speechllm import load_model
from speechmeta.training.average import average_into
from speechmeta.training.build import build
from speechmeta.training.config import TrainConfig, read_config
from speechmeta.training.manifest import read_manifest
from speechmeta.training.optimizer import build_optimizer, trapezoid
from speechmeta.training.trainer import train


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return tiny_config(tmp_path)


def test_other_encoders_can_be_trained(config: TrainConfig) -> None:
    config.model.encoder = {
        "model_type": "wavlm", "hidden_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 48, "conv_dim": [16, 16, 16],
        "conv_kernel": [400, 3, 3], "conv_stride": [160, 2, 2], "num_feat_extract_layers": 3,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    }  # fmt: skip
    config.optim.max_steps = 1
    model, _ = load_model(train(config), device="cpu")
    assert model.config.audio_config.model_type == "wavlm"


def test_run_and_resume(config: TrainConfig) -> None:
    config.model.decoding = {"transcript_search": "ctc", "ctc_beam": 3}
    final = train(config)
    summary = json.loads((final / "training.json").read_text())
    assert summary["steps"] == 4
    assert NgramModel.load(final) is not None
    assert WordModel.load(final) is not None
    model, processor = load_model(final, device="cpu")
    wave = np.zeros(8_000, np.float32)
    with torch.inference_mode():
        logits = model(**processor(audio=wave, sampling_rate=16_000)).logits
    assert bool(torch.isfinite(logits).all())
    prior = model.config.decoding["label_prior"]
    assert set(prior["Gender"]) == {"Female", "Male"}
    assert sum(prior["Gender"].values()) == pytest.approx(1.0, abs=1e-3)
    options = DecodeOptions.for_checkpoint(model.config)
    assert (options.transcript_search, options.ctc_beam) == ("ctc", 3)
    config.optim.max_steps = 6
    with torch.inference_mode():  # a caller's, which must not keep the run from learning
        again = json.loads((train(config, resume=True) / "training.json").read_text())
    assert again["steps"] == 6
    assert again["minutes"] >= summary["minutes"]


def test_runs_follow_one_another(config: TrainConfig, tmp_path: Path, run_cli: RunCli) -> None:
    config.optim.max_steps = 1
    paths = [tmp_path / "first.json", tmp_path / "second.json"]
    paths[0].write_text(config.model_dump_json())
    config.output, config.model.initial = tmp_path / "second", config.output / "final"
    paths[1].write_text(config.model_dump_json())
    names = [str(path) for path in paths]
    refused = run_cli("train", *names, "-o", tmp_path)
    assert (refused.code, "several runs" in refused.stderr) == (2, True)
    first = run_cli("train", *names).stderr
    assert first.count("trained checkpoint") == 2
    assert (tmp_path / "second" / "final" / "training.json").is_file()
    refused = run_cli("train", *names)
    assert (refused.code, "--resume" in refused.stderr) == (2, True)
    before = (tmp_path / "run" / "final" / "model.safetensors").stat().st_mtime_ns
    (tmp_path / "second" / "final" / "training.json").unlink()
    run_cli("train", *names, "--resume")
    assert (tmp_path / "run" / "final" / "model.safetensors").stat().st_mtime_ns == before
    assert (tmp_path / "second" / "final" / "training.json").is_file()


def test_runs_end_in_an_average(config: TrainConfig, tmp_path: Path) -> None:
    config.optim.keep = [0.5]
    first = train(config)
    early = load_file(config.output / "at-0.5" / "model.safetensors")
    assert any(not torch.equal(w, early[n]) for n, w in load_model(first)[0].named_parameters())
    config.output, config.optim.keep = tmp_path / "second", []
    last = {
        n: w.clone() for n, w in load_model(train(config), dtype="float32")[0].named_parameters()
    }
    config.output = tmp_path / "third"
    config.model.average = {tmp_path / "run" / "at-0.5": 0.25}
    mean, _ = load_model(train(config), dtype="float32")
    for name, weight in mean.named_parameters():
        assert torch.allclose(weight, 0.75 * last[name] + 0.25 * early[name], atol=1e-6), name
    with pytest.raises(UsageError, match="no checkpoint"):
        average_into(mean, {tmp_path / "nothing": 0.5})
    with pytest.raises(UsageError, match="shares of 1"):
        average_into(mean, {first: 1.0})
    with pytest.raises(UsageError, match="does not fit"):
        average_into(torch.nn.Linear(3, 3), {first: 0.5})


def test_what_training_hides_may_change(config: TrainConfig, tmp_path: Path) -> None:
    clips = list(read_manifest(config.data.manifests[0]))
    model, processor = build(config, clips)
    model.save_pretrained(tmp_path / "first")
    processor.save_pretrained(tmp_path / "first")
    config.model.initial = tmp_path / "first"
    config.model.encoder = {"mask_time_prob": 0.1}
    again, _ = build(config, clips)
    assert again.config.audio_config.mask_time_prob == 0.1
    assert again.config.audio_config.hidden_size == 32
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_optimizer_skips_what_is_not_finite(caplog: pytest.LogCaptureFixture) -> None:
    layer = torch.nn.Linear(4, 4)
    optimizer = build_optimizer(layer, 0.1, 0.1, 0.0)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.full((4, 4), float("nan"))
    layer.bias.grad = torch.ones(4)
    optimizer.step()
    assert torch.equal(layer.weight, before)
    assert optimizer.skipped == 1
    layer.weight.grad = torch.ones(4, 4)
    optimizer.step()
    assert not torch.equal(layer.weight, before)


def test_trapezoid() -> None:
    done = 0.0
    factor = trapezoid(lambda: done, warmup=10, decay_share=0.5)
    assert [factor(0), factor(9), factor(50)] == pytest.approx([0.1, 1.0, 1.0])
    done = 0.75
    assert factor(50) == pytest.approx(0.5)
    done = 1.0
    assert factor(50) == 0.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output: x", "data"),
        ("output: x\ndata: {manifests: [a], nonsense: 1}", r"data\.nonsense"),
        ("output: x\ndata: {manifests: [a]}\nmodel: {decoding: {beams: 3}}", "beams"),
        ("output: x\ndata: {manifests: [a]}\nmodel: {decoding: {ctc_beam: 0}}", "ctc_beam is 0"),
        ("output: [", "not valid"),
    ],
)
def test_bad_configs(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_config(path)
    with pytest.raises(UsageError, match="cannot read"):
        read_config(tmp_path / "absent.yaml")
