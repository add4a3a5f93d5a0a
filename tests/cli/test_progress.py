"""Progress: what it says, that nothing of it is left or gets into a pipe, and Ctrl-C."""

from __future__ import annotations

import os
import pty
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from audio_files import write_wav
from conftest import RunCli
from fakes import FakeEngine
from voices import make_call

from speechmeta.audio.recording import Recording
from speechmeta.cli import progress as home
from speechmeta.cli.progress import watching
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.progress import CallProgress
from speechmeta.writers.subtitles import SrtWriter

HALF = CallProgress("turns", 600.0, 1200.0, 100, 200)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    engine: Any = FakeEngine()
    made = Analyzer.from_engine(engine)
    monkeypatch.setattr("speechmeta.pipeline.analyzer.Analyzer", lambda **_: made)
    return write_wav(tmp_path / "call.wav", make_call(turns=2).waveform, 8000)


def test_nothing_is_drawn_into_a_pipe(run_cli: RunCli, call: Path) -> None:
    result = run_cli("analyze", call)
    assert (result.code, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    assert len([line for line in result.stdout.splitlines() if "seconds" in line]) == 2


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(home, "LOG_SECONDS", 0.05)
    told: list[str] = []

    def until(text: str) -> None:
        end = time.monotonic() + 60
        while not any(text in line for line in told):
            assert time.monotonic() < end, f"{text} was not told"
            time.sleep(0.01)
            told.extend(capsys.readouterr().err.splitlines())

    with watching(quiet=False) as watch:
        until("loading the model")
        watch.begin("a\x1b[2Jb.wav", 2, 3)
        watch.call(HALF)
        until("turns 10:00")
    assert told[0].startswith("speechmeta: loading the model, ")
    assert told[-1].startswith("speechmeta: a\\x1b[2Jb.wav (2 of 3): turns 10:00 of 20:00, ")
    assert told[-1].endswith(" left")
    with watching(quiet=True) as watch:
        watch.call(HALF)
        time.sleep(0.2)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(os.name == "nt", reason="this system has no pseudo-terminals")
def test_a_terminal_keeps_the_results_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("COLUMNS", "70")
        monkeypatch.setenv("TERM", "xterm")
        with watching(quiet=False) as watch:
            watch.begin("call.wav", 1, 1)
            watch.call(HALF)
            watch.print(lambda console: console.print("first"))
            watch.print(lambda console: console.print("second"))
    drawn = read_all(ours)
    assert "10:00 of 20:00" in drawn
    assert screen(drawn) == ["first", "second"]


def read_all(terminal: int) -> str:
    """What was written to a terminal whose other side is closed; one read gives 4 KiB at most."""
    read = bytearray()
    with suppress(OSError):
        while some := os.read(terminal, 1 << 16):
            read += some
    os.close(terminal)
    return read.decode()


def screen(drawn: str) -> list[str]:
    """What is on a terminal in the end; knows what rich's live lines use."""
    lines, row, column = [""], 0, 0
    place = 0
    while place < len(drawn):
        if drawn[place] == "\x1b":
            end = place + 2
            while not drawn[end].isalpha():
                end += 1
            code, kind = drawn[place + 2 : end], drawn[end]
            if kind == "A":
                row -= int(code or 1)
            elif kind == "K":
                assert code == "2"
                lines[row] = ""
            place = end + 1
            continue
        character = drawn[place]
        place += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            row, column = row + 1, 0
            if row == len(lines):
                lines.append("")
        else:
            lines[row] = lines[row].ljust(column)[:column] + character + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C raises; what a shell starts in the background ignores it from its birth."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


@pytest.mark.skipif(os.name == "nt", reason="signals are other there")
def test_ctrl_c_says_what_is_done_and_how_to_go_on(
    run_cli: RunCli,
    call: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    heard: None,
) -> None:
    other = write_wav(tmp_path / "an other.wav", make_call(turns=2).waveform, 8000)
    original, count = FakeEngine.decode, 0

    def pressed(self: FakeEngine, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(FakeEngine, "decode", pressed)
    result = run_cli("analyze", call, other, call, "--json")
    assert result.code == 130
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == (
        f"speechmeta: interrupted; 1 of 3 recordings were finished; go on with '{other}' {call}\n"
    )
    count = 1
    alone = run_cli("analyze", call)
    assert alone.code == 130
    assert alone.stderr.startswith("speechmeta: interrupted at 0:00 of 0:")
    assert alone.stderr.endswith(
        ", 0 of 2 turns; no file was written; the same command starts again\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="signals are other there")
def test_ctrl_c_that_a_library_drops_is_not_lost(
    run_cli: RunCli, call: Path, monkeypatch: pytest.MonkeyPatch, heard: None
) -> None:
    original, count = Recording.blocks, 0

    def dropped(self: Recording) -> Any:
        nonlocal count
        count += 1
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return original(self)

    monkeypatch.setattr(Recording, "blocks", dropped)
    result = run_cli("analyze", call, "--json")
    assert count == 1
    assert result.code == 130
    assert result.stdout == ""
    assert result.stderr == (
        "speechmeta: interrupted before the first turn; the same command starts again\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="signals are other there")
def test_ctrl_c_that_a_library_makes_a_fault_of_is_no_fault(
    run_cli: RunCli, call: Path, monkeypatch: pytest.MonkeyPatch, heard: None
) -> None:
    def broken(self: Recording) -> Any:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise SystemError("returned a result with an exception set") from None

    monkeypatch.setattr(Recording, "blocks", broken)
    result = run_cli("analyze", call, call)
    assert result.code == 130
    assert result.stderr.startswith("speechmeta: interrupted; 0 of 2 recordings were finished")


@pytest.mark.skipif(os.name == "nt", reason="signals are other there")
def test_ctrl_c_while_files_are_written_says_which_are_there(
    run_cli: RunCli, call: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: None
) -> None:
    def pressed(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(SrtWriter, "write", pressed)
    out = tmp_path / "out"
    result = run_cli("analyze", call, "-o", out, "-f", "json,srt,txt")
    assert result.code == 130
    written = [path for path in out.iterdir() if not path.name.startswith(".")]
    assert [path.suffix for path in written] == [".json"]
    assert result.stderr.endswith(
        f" turns; written: {written[0]}; the same command with --overwrite starts again\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="signals are other there")
def test_ctrl_c_in_any_command_is_said(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("speechmeta.cli.models.list_models", pressed)
    result = run_cli("models")
    assert (result.code, result.stderr) == (130, "speechmeta: interrupted\n")


def test_what_the_line_says() -> None:
    state = home._State()
    assert state.text() == "loading the model, 0 s"
    state.begin("call.wav", 1, 1)
    assert state.text() == "call.wav: opening, 0 s"
    state._began -= 60
    state.call(CallProgress("reading", 100.0, None))
    assert state.text() == "call.wav: reading 1:40"
    state.call(CallProgress("turns", 600.0, 1200.0, 100, 200))
    share = 0.15 + 0.85 / 2
    left = home.clock(60 * (1 - share) / share)
    said = f"call.wav: turns 10:00 of 20:00, {share * 20:.1f}x real time, {{}} left"
    assert state.text() == said.format(left)
    # While the next turns are decoded, time goes by and the rate stays.
    state._began -= 20
    state._told -= 20
    assert state.text() == said.format(home.clock(60 * (1 - share) / share - 20))
    state._began -= 3600
    state._told -= 3600
    assert state.text() == said.format("0:00")
