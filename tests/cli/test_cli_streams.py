"""Recordings from standard input and FIFOs, results to standard output."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from audio_files import Sine, write_wav
from fakes import FakeEngine
from voices import make_call

from speechmeta.cli.app import main
from speechmeta.pipeline.analyzer import Analyzer

pytestmark = pytest.mark.slow


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    engine: Any = FakeEngine()
    made = Analyzer.from_engine(engine)
    monkeypatch.setattr("speechmeta.pipeline.analyzer.Analyzer", lambda **_: made)
    return write_wav(tmp_path / "call.wav", make_call(turns=2).waveform, 8000)


class Stdin:
    """Standard input that brings bytes and cannot go back."""

    class _Once(io.BytesIO):
        def seekable(self) -> bool:
            return False

    def __init__(self, data: bytes) -> None:
        self.buffer = self._Once(data)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_stdin_to_stdout(
    call: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", str(call), "-o", "-", "-q"]) == 0
    from_file = json.loads(capsys.readouterr().out)
    monkeypatch.setattr("sys.stdin", Stdin(call.read_bytes()))
    assert main(["analyze", name, "-o", "-", "-q"]) == 0
    piped = json.loads(capsys.readouterr().out)
    assert len(piped["turns"]) == 2
    assert {**piped["audio"], "path": None} == {**from_file["audio"], "path": None}
    assert piped["turns"] == from_file["turns"]


def test_results_of_stdin_have_a_name(
    call: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(call.read_bytes()))
    assert main(["analyze", "-", "-o", str(tmp_path / "out"), "-f", "srt,json", "-q"]) == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["stdin.json", "stdin.srt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo(call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(call.read_bytes(),))
    writer.start()
    assert main(["analyze", str(fifo), "--json", "-q"]) == 0
    writer.join()
    assert len(json.loads(capsys.readouterr().out)["turns"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "-", "--json"], "--json"),
        (["-o", "-", "-f", "json,srt"], "one format"),
        (["-o", "-", "-f", "parquet"], "format of text"),
    ],
)
def test_stdout_takes_one_text(
    call: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", str(call), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_several_recordings_on_stdout_are_lines(
    call: Path, sine: Sine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_wav(tmp_path / "other.wav", sine(1, 8000), 8000)
    assert main(["analyze", str(call), str(other), "-o", "-"]) == 2
    assert "jsonl" in capsys.readouterr().err
    assert main(["analyze", str(call), str(other), "-o", "-", "-f", "jsonl", "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["audio"]["path"] for line in lines] == [str(call), str(other)]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "speechmeta.cli", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "speechmeta: the output cannot be written: No space left on device; "
        "make room, and try again\n"
    )
