"""Systems under test: this package's engine, transformers pipelines, files."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from eval_trees import OURS, manifest
from tiny import tiny_speechllm
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    pipeline,
)

from speechmeta.audio.loading import Audio
from speechmeta.decoding.layout import COMPACT_LAYOUT, PUBLISHED_LAYOUT
from speechmeta.errors import DatasetError, MissingExtraError, ModelError, UsageError
from speechmeta.eval import Dataset, evaluate, read_dataset
from speechmeta.eval.faster_whisper import FasterWhisperPredictor
from speechmeta.eval.systems import AnalyzerPredictor, FilePredictor, PipelinePredictor
from speechmeta.models.speechllm.recognition import SpeechLLMRecognizer
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.schema import FIELDS


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return read_dataset("manifest", manifest(tmp_path / "data" / "dev.jsonl", OURS))


def _audio(seconds: float = 0.5) -> Audio:
    samples = np.random.default_rng(0).standard_normal(int(seconds * 16000)) * 0.1
    return Audio(samples.astype(np.float32)[None], 16000)


@pytest.mark.parametrize("layout", ["compact", "published"])
def test_the_engine_of_this_package(dataset: Dataset, layout: str) -> None:
    texts = {"compact": COMPACT_LAYOUT, "published": PUBLISHED_LAYOUT}
    model, processor = tiny_speechllm(seed=3, layout=texts[layout])
    analyzer = Analyzer.from_engine(SpeechLLMRecognizer(model, processor, name="tiny"))
    report = evaluate(dataset, predictor=AnalyzerPredictor(analyzer), batch_size=2)
    assert (report["n"], report["errors"]) == (5, 0)
    assert report["valid_json"]["share"] == 1.0
    assert report["system"]["architecture"] == "speechllm"
    assert report["system"]["fields"] == list(FIELDS)
    assert report["system"]["label_sets"]["Gender"] == ["Female", "Male"]
    assert report["rtfx"] > 0
    assert report["labels"]["Gender"]["n"] == 4


def test_an_analyzer_that_is_asked_for_less(dataset: Dataset) -> None:
    model, processor = tiny_speechllm(seed=3, spread=0.02)
    analyzer = Analyzer.from_engine(SpeechLLMRecognizer(model, processor, name="tiny"))
    predictor = AnalyzerPredictor(analyzer, ["Gender"], 1.0)
    prediction = predictor.predict([_audio()])[0]
    assert prediction.values == {"Gender": None}
    assert sum(prediction.probabilities["Gender"].values()) == pytest.approx(1)
    assert prediction.output == '{"Gender":null}'
    report = evaluate(dataset, predictor=predictor)
    assert report["wer"] is None
    assert report["speech_activity"] is None
    assert set(report["labels"]) == {"Gender"}
    assert report["labels"]["Gender"]["coverage"] == 0
    # The label was withheld, not unknown: calibration still sees its probability.
    assert report["labels"]["Gender"]["ece"] is not None


def test_a_broken_clip_among_the_engines(dataset: Dataset) -> None:
    dataset.clips[1].audio.write_bytes(b"broken")
    model, processor = tiny_speechllm(seed=3)
    analyzer = Analyzer.from_engine(SpeechLLMRecognizer(model, processor, name="tiny"))
    predictor = AnalyzerPredictor(analyzer)
    report = evaluate(dataset, predictor=predictor)
    assert [item["id"] for item in report["failures"]] == ["clips/b.opus"]
    assert report["valid_json"]["share"] == 0.8


class FakeAsr:
    """Says how long the audio is."""

    def __call__(self, inputs: list[dict[str, Any]], batch_size: int) -> list[dict[str, str]]:
        return [{"text": f" {len(item.pop('raw'))} samples "} for item in inputs]


class FakeClassifier:
    """Answers in labels of its own."""

    def __call__(
        self, inputs: list[dict[str, Any]], batch_size: int, top_k: None
    ) -> list[list[dict[str, Any]]]:
        scores = [("ang", 0.3), ("angry", 0.1), ("happiness", 0.35), ("fear", 0.2), ("zzz", 0.05)]
        return [[{"label": label, "score": score} for label, score in scores] for _ in inputs]


def test_pipelines_are_joined_to_one_prediction(dataset: Dataset) -> None:
    predictor = PipelinePredictor(FakeAsr(), {"Emotion": FakeClassifier()})
    prediction = predictor.predict([_audio(), _audio(1.0)])[1]
    assert prediction.values == {"Transcript": "16000 samples", "Emotion": "Anger"}
    assert prediction.probabilities["Emotion"] == {
        "Anger": pytest.approx(0.4 / 0.75),
        "Happy": pytest.approx(0.35 / 0.75),
    }
    assert prediction.output is None
    report = evaluate(dataset, predictor=predictor)
    assert report["valid_json"] is None
    assert report["system"]["fields"] == ["Transcript", "Emotion"]
    assert report["system"]["label_maps"] == {
        "Emotion": {
            "ang": "Anger",
            "angry": "Anger",
            "happiness": "Happy",
            "fear": None,
            "zzz": None,
        }
    }
    assert report["errors"] == 0


def _tiny_config(**options: Any) -> Wav2Vec2Config:
    return Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=[8, 8],
        conv_kernel=[400, 3],
        conv_stride=[160, 2],
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        mask_time_prob=0.0,
        **options,
    )


def test_real_pipelines_of_transformers(dataset: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vocabulary = {"<pad>": 0, "<unk>": 1, "|": 2, **{c: i + 3 for i, c in enumerate("abcdefgh")}}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), pad_token="<pad>")
    extractor = Wav2Vec2FeatureExtractor()
    asr = pipeline(
        "automatic-speech-recognition",
        model=Wav2Vec2ForCTC(_tiny_config(vocab_size=len(vocabulary), pad_token_id=0)),
        tokenizer=tokenizer,
        feature_extractor=extractor,
    )
    labels = {0: "female", 1: "male", 2: "child"}
    classifier = pipeline(
        "audio-classification",
        model=Wav2Vec2ForSequenceClassification(
            _tiny_config(id2label=labels, label2id={v: k for k, v in labels.items()})
        ),
        feature_extractor=extractor,
    )
    report = evaluate(dataset, predictor=PipelinePredictor(asr, {"Gender": classifier}))
    assert report["errors"] == 0
    assert report["wer"] is not None
    assert report["labels"]["Gender"]["coverage"] == 1.0
    assert report["labels"]["Gender"]["ece"] is not None
    assert report["system"]["label_maps"]["Gender"]["child"] is None


def test_pipelines_need_something_to_do() -> None:
    with pytest.raises(UsageError, match="no pipeline"):
        PipelinePredictor()
    with pytest.raises(UsageError, match="no label field Mood"):
        PipelinePredictor(None, {"Mood": FakeClassifier()})


def _lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_predictions(dataset: Dataset, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"audio": "clips/a.opus", "pred_text": "hello there mr smith", "gender": "female",
         "probabilities": {"Gender": {"Female": 0.9, "Male": 0.1}}, "time": 0.1},
        {"audio_filepath": "b.opus", "pred_text": "twenty dollars", "gender": "robot"},
        {"id": "clips/c.wav", "pred_text": "", "gender": None, "time": 0.2},
        {"id": "clips/d.wav", "error": "the service was down"},
    ]  # fmt: skip
    report = evaluate(dataset, predictor=FilePredictor(_lines(tmp_path / "p.jsonl", rows)))
    # One line says that it failed, one clip has no line.
    assert [item["id"] for item in report["failures"]] == ["clips/d.wav", "clips/e.wav"]
    assert report["system"]["fields"] == ["Transcript", "Gender"]
    assert report["words"]["substitutions"] == 1
    gender = report["labels"]["Gender"]
    assert (gender["n"], gender["accuracy"], gender["coverage"]) == (4, 0.25, 0.5)
    assert gender["confusion"]["columns"] == ["Female", "Male", "robot", "(none)"]
    assert report["rtfx"] == pytest.approx((0.7 + 0.9) / 0.3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"pred_text": "a"}], "no id"),
        ([{"id": "a", "pred_text": "a"}, {"id": "a", "pred_text": "b"}], "occurs twice"),
        ([{"id": "a", "SpeechActivity": "True"}], "not true or false"),
        ([{"id": "a"}], "predicts no field"),
        ([], "holds no predictions"),
    ],
)
def test_bad_files_of_predictions(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        FilePredictor(_lines(tmp_path / "p.jsonl", rows))


class FakeWhisper:
    """Stands for `faster_whisper.WhisperModel`: hears nothing in quiet audio."""

    class Inner:
        device, compute_type = "cpu", "int8_float32"

    def __init__(self, name: str, **options: Any) -> None:
        if name == "absent":
            raise RuntimeError("no\n such model")
        self.options, self.model = options, self.Inner()

    def transcribe(self, audio: np.ndarray, **options: Any) -> tuple[Any, None]:
        assert options == {"language": "en", "vad_filter": True}
        texts = [" Hello", " there. "] if np.abs(audio).max() > 0.01 else []
        return (SimpleNamespace(text=text) for text in texts), None


@pytest.fixture
def fake_whisper(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("faster_whisper")
    package.WhisperModel = FakeWhisper  # type: ignore[attr-defined]
    package.__spec__ = ModuleSpec("faster_whisper", None)
    monkeypatch.setitem(sys.modules, "faster_whisper", package)
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"1 ({name})")


@pytest.mark.usefixtures("fake_whisper")
def test_faster_whisper_says_words_and_speech() -> None:
    predictor = FasterWhisperPredictor("base", "en", local_files_only=True)
    loud, quiet = _audio(), Audio(np.zeros((1, 8000), np.float32), 16000)
    heard = [prediction.values for prediction in predictor.predict([loud, quiet])]
    assert heard == [
        {"SpeechActivity": True, "Transcript": "Hello there."},
        {"SpeechActivity": False, "Transcript": ""},
    ]
    told = predictor.describe()
    assert (told["name"], told["dtype"]) == ("faster-whisper base", "int8_float32")
    assert predictor.model.options["local_files_only"] is True


@pytest.mark.usefixtures("fake_whisper")
def test_a_model_that_faster_whisper_cannot_load() -> None:
    with pytest.raises(ModelError, match="cannot load absent: no such model"):
        FasterWhisperPredictor("absent")
    with pytest.raises(UsageError, match="not on mps"):
        FasterWhisperPredictor("base", device="mps")


def test_faster_whisper_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(MissingExtraError, match="faster_whisper, which is not installed"):
        FasterWhisperPredictor("base")
