"""`speechmeta eval` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eval_trees import OURS, common_voice, iemocap, librispeech, manifest, spoken_words
from tiny import tiny_speechllm

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return manifest(tmp_path / "data" / "dev.jsonl", OURS)


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    rows = [
        {"audio": row["audio"], "pred_text": row["transcript"] or "", "gender": row["gender"]}
        for row in OURS
    ]
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_manifest_writes_four_files(
    run_cli: Any, data: Path, predictions: Path, tmp_path: Path
) -> None:
    result = run_cli(
        "eval", "manifest", "--data", data, "--predictions", predictions, "-o", tmp_path / "out"
    )
    assert result.code == 0
    assert "WER" in result.stdout
    assert "Published SpeechLLM table" not in result.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["wer"], report["n"], report["errors"]) == (0.0, 5, 0)
    assert report["labels"]["Gender"]["accuracy"] == 1.0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.json", "report.md", "report.html", "records.jsonl",
    }  # fmt: skip


def test_json_on_stdout_and_nothing_else_there(run_cli: Any, data: Path, predictions: Path) -> None:
    result = run_cli("eval", "manifest", "--data", data, "--predictions", predictions, "--json")
    assert result.code == 0
    report = json.loads(result.stdout)
    assert report["dataset"]["source"] == str(data)


def test_failed_clips_make_the_exit_code_1(run_cli: Any, data: Path, predictions: Path) -> None:
    lines = predictions.read_text().splitlines()
    predictions.write_text("\n".join(lines[1:]) + "\n")
    result = run_cli("eval", "manifest", "--data", data, "--predictions", predictions)
    assert result.code == 1
    assert "clips/a.opus: no prediction" in result.stderr


def test_every_data_set_is_a_command(run_cli: Any, tmp_path: Path) -> None:
    nothing = tmp_path / "predictions.jsonl"
    nothing.write_text('{"id": "x", "pred_text": "y", "gender": "male"}\n')
    for name, make, count in (
        ("librispeech", librispeech, 3),
        ("commonvoice", lambda root: common_voice(root, "20"), 4),
        ("iemocap", iemocap, 40),
        ("mswc", lambda root: spoken_words(root, False), 2),
    ):
        root = make(tmp_path / name)
        result = run_cli("eval", name, "--data", root, "--predictions", nothing, "--json", "-q")
        assert result.code == 1
        report = json.loads(result.stdout)
        # No prediction for any clip: every word is lost.
        assert (report["n"], report["errors"], report["wer"]) == (count, count, 1.0)
        assert report["labels"]["Gender"]["accuracy"] == 0.0


def test_compare(run_cli: Any, data: Path, predictions: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_cli(
            "eval", "manifest", "--data", data, "--predictions", predictions,
            "-o", tmp_path / f"{name}.json",
        )  # fmt: skip
    result = run_cli("eval", "compare", tmp_path / "a.json", tmp_path / "b.json")
    assert result.code == 0
    assert "On 5 clips" in result.stdout
    assert "B - A" in result.stdout
    result = run_cli(
        "eval", "compare", *(tmp_path / f"{name}.json" for name in "aba"), "--json",
        "--names", "x,y,z", "--resample", "clips", "-o", tmp_path / "out",
    )  # fmt: skip
    out = tmp_path / "out" / "comparison"
    written = json.loads(out.with_suffix(".json").read_text())
    assert json.loads(result.stdout) == written
    assert [system["name"] for system in written["systems"]] == ["x", "y", "z"]
    assert out.with_suffix(".md").read_text().startswith("# Comparison on the same clips")
    assert "C - A" in out.with_suffix(".html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--predictions", "p.jsonl", "--model", "m"], "name different systems"),
        (["--predictions", "p.jsonl", "--faster-whisper", "m"], "name different systems"),
        (["--limit", "1", "--sample", "1"], "both choose the clips"),
        (["--classifier", "Gender"], "is not FIELD=MODEL"),
        (["--split", "x"], "has no split 'x'"),
        (["--resume", "--predictions", "PREDICTIONS"], "nothing to resume"),
    ],
)
def test_wrong_usage_prints_nothing_on_stdout(
    run_cli: Any, data: Path, predictions: Path, arguments: list[str], message: str
) -> None:
    given = [str(predictions) if item == "PREDICTIONS" else item for item in arguments]
    result = run_cli("eval", "manifest", "--data", data, *given)
    assert result.code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_unknown_data_sets_and_missing_data(run_cli: Any, tmp_path: Path) -> None:
    assert run_cli("eval", "timit", "--data", tmp_path).code == 2
    assert run_cli("eval", "manifest").code == 2
    result = run_cli("eval", "manifest", "--data", tmp_path / "absent.jsonl")
    assert result.code == 1
    assert "there is no" in result.stderr


def test_a_checkpoint_from_a_folder(run_cli: Any, data: Path, tmp_path: Path) -> None:
    for part in tiny_speechllm(seed=3):
        part.save_pretrained(tmp_path / "checkpoint")
    options = ["--data", data, "--model", tmp_path / "checkpoint", "--device", "cpu", "-q"]
    result = run_cli("eval", "manifest", *options, "--batch_size", "3", "-o", tmp_path / "out")
    assert result.code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["valid_json"]["share"] == 1.0
    assert (report["n"], report["errors"], report["batch_size"]) == (5, 0, 3)
    assert report["system"]["device"] == "cpu"
    result = run_cli("eval", "manifest", *options, "--teacher-forced", "--json")
    assert json.loads(result.stdout)["decoding"] == "teacher-forced"


def test_the_bundled_checkpoint_on_a_few_clips(
    run_cli: Any, bundled_dir: Path, shared_dir: Path, tmp_path: Path
) -> None:
    source = shared_dir / "speech" / "dev.jsonl"
    if not source.is_file():
        pytest.skip(f"no {source}")
    result = run_cli("eval", "manifest", "--data", source, "--limit", "6", "-o", tmp_path / "out")
    assert result.code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["valid_json"]["share"] == 1.0
    assert report["system"]["name"] == "bundled"
    for scores in report["labels"].values():
        assert {"accuracy", "uar", "macro_f1", "ece", "n"} <= set(scores)
