"""Folder runs of real recordings: the same documents as `analyze`, and the command line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audio_files import write_wav
from fakes import FakeEngine
from tiny import tiny_speechllm
from voices import make_call

from speechmeta.batch.calls import AnalyzerSource, CallJob, LoadedAnalyzer, _DistantEmbedder
from speechmeta.batch.local import EngineOptions
from speechmeta.batch.runner import FolderOptions, run_folder
from speechmeta.batch.summary import summary_of
from speechmeta.cli import main
from speechmeta.errors import EndpointError
from speechmeta.models.transcribers.base import Transcript
from speechmeta.models.transcribers.beside import TranscribedBeside
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions, ModelOptions
from speechmeta.schema import LABEL_FIELDS
from speechmeta.writers.structured import document

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calls of several kinds: stereo at two rates, two voices on one channel, silence."""
    root = tmp_path_factory.mktemp("calls")
    (root / "day 1").mkdir()
    stereo = make_call(turns=4)
    write_wav(root / "day 1" / "stereo.wav", stereo.waveform, stereo.rate)
    wide = make_call(rate=16000, turns=2)
    write_wav(root / "day 1" / "wide.wav", wide.waveform, wide.rate)
    write_wav(root / "mixed.wav", stereo.waveform.sum(0), stereo.rate)
    write_wav(root / "silent.wav", np.zeros((2, 16000), np.float32), 8000)
    (root / "broken.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVE and no more")
    (root / "notes.txt").write_text("no recording")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model as a folder."""
    folder = tmp_path_factory.mktemp("model")
    model, processor = tiny_speechllm(0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def lines_of(out: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return {os.path.basename(line["audio"]["path"]): line for line in lines}


def test_the_documents_are_those_of_analyze(calls: Path, tmp_path: Path) -> None:
    analyzer = Analyzer.from_engine(FakeEngine())
    options = CallOptions(redact=True)
    result = run_folder(
        calls,
        tmp_path,
        CallJob(options),
        LoadedAnalyzer(analyzer, options),
        FolderOptions(use=EngineOptions(workers=2), formats=("json", "html"), parquet=True),
    )
    assert (result.counts.done, result.counts.failed) == (4, 1)
    found = lines_of(tmp_path)
    assert found["broken.wav"]["error"]["type"] == "AudioError"
    for name in ("day 1/stereo.wav", "day 1/wide.wav", "mixed.wav", "silent.wav"):
        report = analyzer.analyze_call(calls / name, redact=True)
        assert found[os.path.basename(name)] == document(report), name
    assert len(found["stereo.wav"]["turns"]) == 4
    # The voiceprint tells speakers apart without the engine's encoder.
    assert not any("tells speakers apart" in text for text in found["mixed.wav"]["warnings"])
    page = (tmp_path / "calls" / "day 1" / "stereo.wav.html").read_text()
    assert page.count('class="turn"') == 4
    assert len(re.findall('<path class="wave"', page)) == 2


def test_voices_are_told_apart_by_the_same_numbers_in_another_process() -> None:
    analyzer = Analyzer.from_engine(FakeEngine())
    near = analyzer.embedder_source()()
    far = _DistantEmbedder(LoadedAnalyzer(analyzer, CallOptions()).load().answer, None)
    assert near.spread is not None
    assert far.spread is not None
    assert far.distance == near.distance
    np.testing.assert_array_equal(far.spread.between, near.spread.between)
    assert far.spread.share == near.spread.share
    assert (far.spread.most, far.spread.apart) == (near.spread.most, near.spread.apart)


def test_labels_are_left_out_as_analyze_leaves_them_out(calls: Path, tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.thresholds = dict.fromkeys(LABEL_FIELDS, 0.7)
    analyzer = Analyzer.from_engine(engine)
    for number, asked in enumerate((None, 0.0)):
        out = tmp_path / str(number)
        options = CallOptions(min_confidence=asked)
        source = LoadedAnalyzer(analyzer, options)
        run_folder(calls, out, CallJob(options), source, FolderOptions(include=("wide.wav",)))
        report = analyzer.analyze_call(calls / "day 1" / "wide.wav", min_confidence=asked)
        found = lines_of(out)["wide.wav"]
        assert found == document(report)
        # The checkpoint's own limit counts only where the user has none.
        assert {turn["Age"] for turn in found["turns"]} == {None if asked is None else "Young"}
        assert {speaker["Age"]["value"] for speaker in found["speakers"]} == {
            None if asked is None else "Young"
        }


def same(first: Any, second: Any) -> bool:
    """Equal but for the last digits of numbers, which depend on the batch."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float):
        return bool(first == pytest.approx(second, abs=2e-3))
    return bool(first == second)


@pytest.mark.parametrize("processes", [0, 1])
def test_a_real_model_in_this_or_another_process(
    calls: Path, checkpoint: Path, tmp_path: Path, processes: int
) -> None:
    options = CallOptions()
    source = AnalyzerSource(
        ModelOptions(model=str(checkpoint), device="cpu", dtype="float32", batch_size=4), options
    )
    use = EngineOptions(workers=1, batch_size=4, model_processes=processes)
    run_folder(calls, tmp_path, CallJob(options), source, FolderOptions(use=use))
    analyzer = Analyzer(checkpoint, device="cpu", dtype="float32")
    found = lines_of(tmp_path)
    # The mixed call's speakers are told apart with the model's own encoder, from a worker.
    for name in ("day 1/stereo.wav", "mixed.wav"):
        expected = document(analyzer.analyze_call(calls / name))
        expected["model"] = found[os.path.basename(name)]["model"]
        assert same(found[os.path.basename(name)], expected), name


def test_the_command_writes_and_resumes_a_folder(
    calls: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    common = [str(calls), "-o", str(out), "--model", str(checkpoint), "--device", "cpu"]
    common += ["--exclude", "day 1", "--roles", "agent,customer", "--compute-type", "float32"]
    assert main(["batch", *common, "--channels", "split", "-f", "json", "--include", "s*"]) == 0
    stdout, stderr = capfd.readouterr()
    assert stdout == ""
    assert "1 files done, 0 failed" in stderr
    assert list(lines_of(out)) == ["silent.wav"]
    # The same output again needs a word.
    assert main(["batch", *common]) == 2
    assert "--resume goes on with it" in capfd.readouterr().err
    assert main(["batch", *common, "--resume"]) == 2
    assert "resume with the same settings" in capfd.readouterr().err
    # A broken file: its record, a line on stderr, and exit code 1.
    assert main(["batch", *common, "--overwrite", "--include", "broken*", "--summary"]) == 1
    stdout, stderr = capfd.readouterr()
    assert "broken.wav" in stderr
    assert "0 calls, 1 failed" in stdout
    assert "AudioError" in stdout
    # The summary alone, as JSON.
    assert main(["batch", "-o", str(out), "--summary", "--json"]) == 1
    data = json.loads(capfd.readouterr().out)
    assert (data["files"], data["failed"], data["missing"]) == (0, 1, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calls"], "add -o OUT"),
        (["-o", "out"], "speechmeta batch DIR -o OUT"),
        (["calls", "-o", "out", "--json"], "add --summary"),
        (["calls", "-o", "out", "--resume", "--overwrite"], "contradict"),
        (["calls", "-o", "out", "--retry-failed"], "add --resume"),
        (["nowhere", "-o", "out"], "is not a folder"),
        (["calls", "-o", "out", "-f", "doc"], "unknown output format"),
        (["-o", "out", "--summary"], "holds no folder run"),
        (["calls", "-o", "out", "--engine", "cloud"], "cloud"),
    ],
)
def test_wrong_usage_leaves_no_folder_behind(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calls").mkdir()
    assert main(["batch", *arguments]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_no_failure(
    tmp_path: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "calls").mkdir()
    arguments = [str(tmp_path / "calls"), "-o", str(tmp_path / "out"), "--model", str(checkpoint)]
    assert main(["batch", *arguments]) == 0
    assert "no recordings found" in capfd.readouterr().err


def test_progress_in_words() -> None:
    from speechmeta.batch.runner import Progress
    from speechmeta.cli.batch import clock, failure, seconds_left, speed

    start = Progress(4, 0, 0, 0.0, 0, 1000, 0.0)
    assert seconds_left(start) is None
    assert speed(start) == 0.0
    failed = Progress(4, 0, 1, 0.0, 10, 1000, 5.0, "a/b.wav", "a/b.wav is empty")
    assert seconds_left(failed) is None
    assert failure(failed) == "a/b.wav is empty"
    half = Progress(4, 2, 0, 60.0, 500, 1000, 10.0, "c.wav", "no sound")
    assert seconds_left(half) == pytest.approx(10.0)
    assert speed(half) == pytest.approx(6.0)
    assert failure(half) == "c.wav: no sound"
    assert [clock(59.6), clock(3661)] == ["1:00", "1:01:01"]


class _Fickle:
    """A transcriber that fails until it is mended."""

    name, language, max_seconds = "fickle", None, 30.0

    def __init__(self) -> None:
        self.broken = True

    def transcribe(self, waveforms: Any, word_times: bool = False) -> list[Any]:
        if self.broken:
            return [EndpointError("it is down") for _ in waveforms]
        return [Transcript("hello") for _ in waveforms]


@pytest.mark.slow
def test_a_call_without_transcripts_is_kept_counted_and_tried_again(tmp_path: Path) -> None:
    call = make_call(turns=2)
    (tmp_path / "in").mkdir()
    path = write_wav(tmp_path / "in" / "call.wav", call.waveform, call.rate)
    fickle, out = _Fickle(), tmp_path / "out"
    analyzer = Analyzer.from_engine(TranscribedBeside(FakeEngine(), fickle))
    source, formats = LoadedAnalyzer(analyzer), ("json", "srt", "vtt", "txt", "csv", "html")
    run = FolderOptions(formats=formats, parquet=True)
    result = run_folder(path.parent, out, CallJob(), source, run)
    assert (result.counts.done, result.counts.failed) == (0, 1)
    line = lines_of(out)["call.wav"]
    assert line["failures"][0]["turns"] == [0, 1]
    assert [turn["Gender"] for turn in line["turns"]]
    assert len(list((out / "calls").iterdir())) == len(formats)
    summary = summary_of(out)
    assert (summary.files, summary.failed, summary.incomplete) == (1, 0, 1)
    assert summary.failures == {"no transcript": 1}
    assert main(["batch", "--summary", "-o", str(out)]) == 1
    fickle.broken = False
    again = FolderOptions(formats=formats, parquet=True, resume=True, retry_failed=True)
    result = run_folder(path.parent, out, CallJob(), source, again)
    assert (result.counts.done, result.counts.failed) == (1, 0)
    assert lines_of(out)["call.wav"]["turns"][0]["Transcript"] == "hello"
    assert "failures" not in lines_of(out)["call.wav"]
