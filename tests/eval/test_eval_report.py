"""`evaluate` from end to end on every layout, and what its files hold."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import av
import pytest
from eval_fakes import Oracle
from eval_trees import OURS, common_voice, iemocap, librispeech, manifest, spoken_words

from speechmeta.errors import DatasetError, OutputError, UsageError
from speechmeta.eval import Dataset, evaluate, read_dataset
from speechmeta.eval.reports.output import load_report
from speechmeta.schema import LABEL_FIELDS

pytestmark = pytest.mark.slow


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return read_dataset("manifest", manifest(tmp_path / "data" / "dev.jsonl", OURS))


def _written(dataset: Dataset, out: Path, answers: dict[str, Any], **options: Any) -> Any:
    evaluate(dataset, predictor=Oracle(dataset, answers), output=out, **options)
    return json.loads((out / "report.json").read_text())


def test_a_perfect_system_is_perfect(dataset: Dataset, tmp_path: Path) -> None:
    report = _written(dataset, tmp_path / "out", {})
    assert (report["wer"], report["cer"], report["n"], report["errors"]) == (0.0, 0.0, 5, 0)
    assert set(report["labels"]) == set(LABEL_FIELDS)
    for scores in report["labels"].values():
        assert {"accuracy", "uar", "macro_f1", "ece", "n"} <= set(scores)
        assert scores["accuracy"] == scores["uar"] == scores["macro_f1"] == 1.0
        assert scores["ece"] == pytest.approx(0.2)
    assert report["valid_json"] == {
        "share": 1.0, "share_of_results": 1.0, "n": 5, "invalid": [],
    }  # fmt: skip
    assert report["normalizer"] == "whisper-english (no spelling map)"
    assert report["decoding"] == "free-running"
    assert report["rtfx"] > 0
    assert 50 < report["peak_memory_mb"] < 1e6
    assert report["empty_references"]["ids"] == ["clips/e.wav"]
    # SpeechLLM's table says nothing of a manifest.
    assert report["published"] is None


def test_known_errors_are_counted(dataset: Dataset, tmp_path: Path) -> None:
    answers = {
        # The normaliser makes "hello there mister smith" and "$25" of the references.
        "clips/a.opus": {"Transcript": "hello their mister", "Gender": "Male", "Emotion": None},
        "clips/c.wav": {"SpeechActivity": False, "Gender": None, "Age": None, "Accent": None},
    }
    report = _written(dataset, tmp_path / "out", answers)
    assert report["words"] == {
        "clips": 2, "reference": 5, "hits": 3, "substitutions": 1, "deletions": 1, "insertions": 0,
    }  # fmt: skip
    assert report["wer"] == pytest.approx(2 / 5)
    gender = report["labels"]["Gender"]
    # Of a, b, c, e: a is wrong, c has none.
    assert (gender["n"], gender["accuracy"], gender["coverage"]) == (4, 0.5, 0.75)
    assert gender["uar"] == pytest.approx(0.5)
    assert report["labels"]["Emotion"]["accuracy"] == 0.5
    assert report["speech_activity"]["recall"] == 0.75
    assert report["sources"]["one"]["wer"] == pytest.approx(0.4)


def test_invalid_json_is_found(dataset: Dataset) -> None:
    outputs = ['{"SpeechActivity": true', "{}", '{"SpeechActivity": "True"}', None]

    class Sloppy(Oracle):
        def predict(self, audios: Any) -> Any:
            from dataclasses import replace

            good = super().predict(audios)
            return [
                replace(p, output=outputs[i] if i < 4 else p.output) for i, p in enumerate(good)
            ]

    report = evaluate(dataset, predictor=Sloppy(dataset))
    assert report["valid_json"]["share"] == pytest.approx(0.2)
    assert len(report["valid_json"]["invalid"]) == 4


def test_failures_are_named_everywhere(dataset: Dataset, tmp_path: Path) -> None:
    dataset.clips[0].audio.write_bytes(b"no <audio> here")
    report = _written(dataset, tmp_path / "out", {})
    assert report["errors"] == 1
    assert report["failures"][0]["id"] == "clips/a.opus"
    assert report["wer"] == pytest.approx(4 / 5)
    assert report["labels"]["Emotion"]["accuracy"] == 0.5
    assert report["valid_json"]["share"] == 0.8
    assert report["valid_json"]["share_of_results"] == 1.0
    for name in ("report.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "clips/a.opus" in text
        assert "The recording cannot be played." in text or name == "report.md"


def test_the_markdown_report_holds_the_figures(dataset: Dataset, tmp_path: Path) -> None:
    _written(
        dataset,
        tmp_path / "out",
        {"clips/a.opus": {"Gender": "Male"}},
        command="speechmeta x",
        note="The machine was busy.",
    )
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.startswith("# oracle on manifest\n")
    for part in (
        "- Command: speechmeta x",
        # One speaker said all the words: there is nothing to resample.
        "| WER | 0.00 | n/a | 0 | 0 | 0 | 5 |",
        "- The machine was busy.",
        "## Gender: confusion",
        "| Female | 1 | 1 | 0 |",
        "UAR and macro F1 average over the classes that occur in the references.",
    ):
        assert part in text, part
    assert "speechllm" not in text.lower()
    widths = {
        block: {line.count("|") for line in block.splitlines()}
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    }
    assert all(len(counts) == 1 for counts in widths.values())


def test_html_needs_nothing_else_and_plays(dataset: Dataset, tmp_path: Path) -> None:
    answers = {
        "clips/a.opus": {"Transcript": "<script>alert(1)</script>", "Gender": "Male"},
        "clips/b.opus": {"Transcript": "TWENTY FIVE"},
    }
    _written(dataset, tmp_path / "out", answers, normalizer="none")
    text = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert text.count("<article ") == 2
    assert text.count("<svg") == 8
    assert "<ins>&lt;script&gt;alert(1)&lt;/script&gt;</ins>" in text
    assert "<del>DOLLARS</del>" in text
    sources = re.findall(
        r'<audio controls preload="none" src="data:audio/ogg;base64,([^"]+)"', text
    )
    assert len(sources) == 2
    with av.open(io.BytesIO(base64.b64decode(sources[0])), "r") as container:
        frames = sum(frame.samples for frame in container.decode(audio=0))
    assert frames / 48000 == pytest.approx(0.7, abs=0.1)


def test_the_json_holds_no_paths_of_recordings(dataset: Dataset, tmp_path: Path) -> None:
    evaluate(dataset, predictor=Oracle(dataset), output=tmp_path / "out" / "dev.json")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"dev.json", "dev.md", "dev.html", "dev.records.jsonl"}
    report = load_report(tmp_path / "out" / "dev.json")
    assert str(tmp_path / "data" / "clips") not in json.dumps(report)
    assert report["clips"]["id"] == [clip.id for clip in dataset.clips]
    assert next(reversed(report)) == "clips"


@pytest.mark.parametrize(
    ("name", "make", "count"),
    [
        ("librispeech", librispeech, 3),
        ("commonvoice", lambda root: common_voice(root, "4"), 4),
        ("commonvoice", lambda root: common_voice(root, "20"), 4),
        ("iemocap", iemocap, 40),
        ("mswc", lambda root: spoken_words(root, True), 2),
    ],
)
def test_every_layout_end_to_end(tmp_path: Path, name: str, make: Any, count: int) -> None:
    dataset = read_dataset(name, make(tmp_path / "data"))
    report = evaluate(dataset, predictor=Oracle(dataset), output=tmp_path / "out")
    assert (report["n"], report["errors"], report["wer"]) == (count, 0, 0.0)
    assert report["labels"]["Gender"]["accuracy"] == 1.0
    assert (tmp_path / "out" / "report.html").stat().st_size > 5000


def test_the_run_stands_beside_the_published_table(tmp_path: Path) -> None:
    dataset = read_dataset("librispeech", librispeech(tmp_path / "data"))
    evaluate(dataset, predictor=Oracle(dataset), output=tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    row = "| this run: oracle (free-running, corpus WER) | 0.00 | n/a | 100.00 | n/a |\n"
    assert row in text
    assert "| speechllm-2B (HuBERT-XL + TinyLlama) | 6.73 | 9.13 | 94.96 | 92.17 |\n" in text
    assert "Common Voice" not in text
    report = load_report(tmp_path / "out" / "report.json")
    assert report["published"]["rows"][0]["librispeech_clean_wer"] == 6.73
    assert "teacher-forced" in report["published"]["protocol"]


def test_a_system_with_classes_of_its_own(tmp_path: Path) -> None:
    rows = [
        {"audio": "a.wav", "emotion": "fearful", "text": "x"},
        {"audio": "b.wav", "emotion": "angry", "text": "x"},
        {"audio": "c.wav", "emotion": "Sad", "text": "x"},
    ]
    dataset = read_dataset("manifest", manifest(tmp_path / "m.jsonl", rows))

    class Finer(Oracle):
        def describe(self) -> dict[str, Any]:
            return {**super().describe(), "label_sets": {"Emotion": ["Fearful", "Anger"]}}

    said = {"a.wav": "Fearful", "b.wav": "Anger", "c.wav": "Anger"}
    answers: dict[str, dict[str, Any] | None] = {k: {"Emotion": v} for k, v in said.items()}
    report = evaluate(dataset, predictor=Finer(dataset, answers))
    emotion = report["labels"]["Emotion"]
    # The system has no class for the third clip.
    assert (emotion["n"], emotion["accuracy"]) == (2, 1.0)
    assert emotion["confusion"]["rows"] == ["Fearful", "Anger"]


def test_iemocaps_folds_are_reported_one_by_one(tmp_path: Path) -> None:
    dataset = read_dataset("iemocap", iemocap(tmp_path / "data"))
    # In session 2 every sad line is heard as anger.
    wrong: dict[str, dict[str, Any] | None] = {
        clip.id: {"Emotion": "Anger"}
        for clip in dataset.clips
        if clip.groups["session"] == "Session2" and clip.labels.get("Emotion") == "Sad"
    }
    report = evaluate(dataset, predictor=Oracle(dataset, wrong), output=tmp_path / "out")
    folds = report["folds"]
    assert set(folds["folds"]) == {f"Session{i}" for i in range(1, 6)}
    assert folds["folds"]["Session2"]["Emotion"]["accuracy"] == pytest.approx(4 / 5)
    assert folds["folds"]["Session2"]["Emotion"]["uar"] == pytest.approx(3 / 4)
    assert folds["mean"]["Emotion"]["uar"]["mean"] == pytest.approx((4 + 3 / 4) / 5)
    assert report["labels"]["Emotion"]["n"] == 25
    assert report["labels"]["Emotion"]["confusion"]["rows"] == ["Happy", "Sad", "Anger", "Neutral"]
    assert "## Folds" in (tmp_path / "out" / "report.md").read_text()
    assert "fru (5)" in (tmp_path / "out" / "report.md").read_text()


def test_options_that_do_not_go_together(dataset: Dataset, tmp_path: Path) -> None:
    oracle = Oracle(dataset)
    with pytest.raises(UsageError, match="finished data set"):
        evaluate(dataset, "x", predictor=oracle)
    with pytest.raises(UsageError, match="no data"):
        evaluate("manifest", predictor=oracle)
    with pytest.raises(UsageError, match="options of a model"):
        evaluate(dataset, predictor=oracle, model="m")
    with pytest.raises(UsageError, match="teacher-forced protocol"):
        evaluate(dataset, teacher_forced=True, fields=["Gender"])
    with pytest.raises(UsageError, match="normalizer is 'x'"):
        evaluate(dataset, predictor=oracle, normalizer="x")
    assert oracle.batches == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        evaluate(dataset, predictor=oracle, output=tmp_path / "file" / "out")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DatasetError, match="not a report"):
        load_report(tmp_path / "x.json")
