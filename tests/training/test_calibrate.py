"""Tuning of a finished checkpoint: temperatures, search weights, and what is written."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import tiny_speechllm

from speechmeta.decoding.engine import Engine
from speechmeta.decoding.grammar import Option
from speechmeta.decoding.labels import choose
from speechmeta.decoding.ngram import NgramModel
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import DecodedRecord
from speechmeta.decoding.words import WordModel
from speechmeta.errors import DatasetError, ModelError
from speechmeta.models.speechllm import SpeechLLMConfig
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.training import tune
from speechmeta.training.manifest import Clip, read_manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "dev.jsonl"
    with path.open("w") as file:
        for number in range(8):
            name = f"{number}.wav"
            soundfile.write(tmp_path / name, rng.standard_normal(9_000) * 0.1, 16_000)
            row = {
                "audio": name,
                "duration": 0.56,
                "speaker": f"speaker {number}",
                "transcript": "hello there",
                "gender": "Female" if number % 2 else "Male",
            }
            file.write(json.dumps(row) + "\n")
    return path


def overconfident(clips: Sequence[Clip]) -> list[DecodedRecord]:
    """Says everything with 99 %, and is wrong once in four times, in both halves."""
    seen = Counter[bool]()
    records = []
    for clip in clips:
        half = tune.first_half(clip)
        labels = [clip.labels["Gender"], *({"Female", "Male"} - {clip.labels["Gender"]})]
        said, other = labels if seen[half] % 4 else labels[::-1]
        seen[half] += 1
        records.append(DecodedRecord({}, probabilities={"Gender": {said: 0.99, other: 0.01}}))
    return records


def test_no_source_dominates() -> None:
    def clip(dataset: str, number: int) -> Clip:
        return Clip(Path(f"{number}.wav"), 1.0, dataset, None, True, "hello", {})

    clips = [clip("many", number) for number in range(50)] + [clip("few", 50), clip("few", 51)]
    some = tune.spread(clips, 10)
    assert len({item.audio for item in some}) == 10
    assert Counter(item.dataset for item in some) == {"many": 8, "few": 2}
    assert len(tune.spread(clips, 100)) == 52


def test_overconfident_labels_are_softened(manifest: Path) -> None:
    clips = list(read_manifest(manifest))
    temperature, report = tune.tune_temperatures(overconfident(clips), clips)["Gender"]
    # 0.99 becomes 0.75 at log(99) / log(3) = 4.2.
    assert 1.5 < temperature <= 5
    assert report["tuned"] <= report["crossed"] < report["untuned"]


def test_temperatures_come_before_the_prior(manifest: Path) -> None:
    clips = list(read_manifest(manifest))
    prior = {"Gender": {"Female": 0.9, "Male": 0.1}}
    records = overconfident(clips)
    temperature, report = tune.tune_temperatures(records, clips, prior)["Gender"]
    losses = []
    for clip, record in zip(clips, records, strict=True):
        labels = list(record.probabilities["Gender"])
        options = [Option(label, label, (number,), 0) for number, label in enumerate(labels)]
        scores = [math.log(record.probabilities["Gender"][label]) for label in labels]
        said, _ = choose(options, scores, report["temperature"], prior=prior["Gender"])
        losses.append(-math.log(said[clip.labels["Gender"]]))
    assert temperature != 1.0
    assert report["tuned"] == pytest.approx(np.mean(losses), abs=1e-3)


def test_what_one_half_teaches_has_to_hold_for_the_other(manifest: Path) -> None:
    clips = list(read_manifest(manifest))
    records = []
    for clip in clips:
        # One half of the speakers is always recognised, the other never.
        right, wrong = clip.labels["Gender"], *({"Female", "Male"} - {clip.labels["Gender"]})
        sure = 0.9 if tune.first_half(clip) else 0.1
        records.append(DecodedRecord({}, probabilities={"Gender": {right: sure, wrong: 1 - sure}}))
    temperature, report = tune.tune_temperatures(records, clips)["Gender"]
    assert temperature == 1.0
    assert report["tuned"] == report["untuned"] <= report["crossed"]


def test_tuned_checkpoint_is_decoded_as_it_asks(manifest: Path, tmp_path: Path) -> None:
    model, processor = tiny_speechllm(ctc_head=True)
    folder = tmp_path / "checkpoint"
    prior = {"Gender": {"Female": 0.25, "Male": 0.75}}
    model.config.decoding = {"label_prior": prior}
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    vocabulary, end = len(processor.tokenizer), processor.tokenizer.eos_token_id
    ids = processor.tokenizer(" hello there", add_special_tokens=False)["input_ids"]
    NgramModel.estimate([(ids, 3)], vocabulary, end, order=3).save(folder)
    WordModel.estimate([("hello there", 3)]).save(folder)
    tune.main([str(folder), str(manifest), "--clips", "4", "--abstain-below", "0.6"])
    config = json.loads((folder / "config.json").read_text())
    assert config["abstain_below"] == 0.6
    assert set(config["decoding"]["label_temperature"]) == {"Gender"}
    assert config["decoding"]["label_head_weight"] == {"Gender": 0.0}
    assert config["decoding"]["label_prior"] == prior
    if config["decoding"]["transcript_search"] == "ctc":
        assert {"word_weight", "ngram_weight", "ctc_token_bonus"} <= set(config["decoding"])
    analyzer = Analyzer(folder, batch_size=3)
    assert isinstance(analyzer.engine, Engine)
    assert analyzer.engine.options == DecodeOptions(**config["decoding"], batch_size=3)
    assert analyzer.threshold() == 0.6
    assert analyzer.threshold(0.1) == 0.1
    meta = analyzer.generate_meta(manifest.parent / "0.wav")
    for label, sure in (meta.confidence or {}).items():
        if label in ("Gender", "Age", "Accent", "Emotion"):
            value = {"Gender": meta.gender, "Age": meta.age, "Accent": meta.accent}.get(label)
            assert label == "Emotion" or (value is None) == (sure < 0.6)


def test_unknown_decoding_is_the_checkpoints_fault() -> None:
    with pytest.raises(ModelError, match="nonsense"):
        DecodeOptions.for_checkpoint(SpeechLLMConfig(decoding={"nonsense": 1}))
    with pytest.raises(ModelError, match="ctc_weight"):
        DecodeOptions.for_checkpoint(SpeechLLMConfig(decoding={"ctc_weight": 7}))
    with pytest.raises(ModelError, match="label_head_weight"):
        DecodeOptions.for_checkpoint(SpeechLLMConfig(decoding={"label_head_weight": {"Age": 2}}))


def test_no_transcripts(tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text('{"audio": "a.wav", "duration": 1}\n')
    with pytest.raises(DatasetError, match="transcript"):
        tune.main([str(tmp_path), str(path)])
