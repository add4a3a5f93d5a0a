"""`speechmeta listen`: a recording sent at the pace of speech, shown as `analyze` shows one."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from serving import Running, running, wav_bytes
from voices import make_call

from speechmeta.cli import main
from speechmeta.schema import CallReport

pytestmark = pytest.mark.slow

KEY = "k" * 32


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    path.write_text(f"{KEY}\n")
    return path


@pytest.fixture(scope="module")
def live(keys: Path) -> Iterator[Running]:
    with running(client_seconds=20.0, api_key_file=str(keys)) as found:
        yield found


@pytest.fixture
def heard(live: Running, keys: Path) -> list[str]:
    url = live.address.replace("http://", "ws://") + "/v1/live"
    return ["listen", "--url", url, "--api-key-file", str(keys)]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calls") / "call.wav"
    made = make_call(rate=8000, turns=4)
    path.write_bytes(wav_bytes(made.waveform, made.rate))
    return path


def test_a_call_is_shown_row_by_row_and_its_report_kept(
    heard: list[str], call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.json"
    options = ["--speed", "200", "-o", str(out), "--roles", "agent,customer"]
    assert main([*heard, str(call), *options]) == 0
    shown = capsys.readouterr().out
    report = CallReport.model_validate_json(out.read_text())
    assert len(report.turns) == 4
    assert shown.count("agent") >= 2
    assert "talk: agent" in shown
    assert str(report.turns[0].meta.transcript) in shown
    # What is there is not written over.
    assert main([*heard, str(call), *options]) == 1
    assert "exists" in capsys.readouterr().err


def test_messages_as_they_are(
    heard: list[str], call: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*heard, str(call), "--speed", "200", "--json"]) == 0
    messages = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert messages[0]["type"] == "ready"
    assert messages[-1]["type"] == "report"
    assert messages[0]["fields"]
    assert messages[0]["speakers"] == ["speaker_0", "speaker_1"]


@contextmanager
def pressed_in_a_call(live: Running) -> Iterator[None]:
    """Ctrl-C, once a call goes on."""

    def press() -> None:
        while not any(place.names for place in live.server.served.hall._places):
            time.sleep(0.02)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    pressed = threading.Thread(target=press)
    pressed.start()
    yield
    pressed.join()


def test_ctrl_c_ends_the_call_and_the_report_comes(
    live: Running,
    heard: list[str],
    call: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "report.json"
    with pressed_in_a_call(live):
        # At its own pace the call would take minutes.
        assert main([*heard, str(call), "--speed", "0.1", "-o", str(out)]) == 0
    assert CallReport.model_validate_json(out.read_text()).audio.duration < 15
    assert "speech" in capsys.readouterr().out


class _Stream:
    """A microphone that hears a second of noise, over and over."""

    def __init__(self, *, callback: Any, blocksize: int, **options: Any) -> None:
        assert options == {"samplerate": 16000, "channels": 1, "dtype": "int16"}
        noise = np.random.default_rng(1).integers(-500, 500, blocksize, np.int16)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._hear, args=(callback, noise.tobytes()))

    def _hear(self, callback: Any, frame: bytes) -> None:
        while not self._ended.wait(0.01):
            callback(frame, 320, None, None)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def test_the_microphone_until_ctrl_c(
    live: Running,
    heard: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = SimpleNamespace(RawInputStream=_Stream, PortAudioError=OSError, __spec__=object())
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    with pressed_in_a_call(live):
        assert main([*heard, "--speakers", "1"]) == 0
    assert "microphone" in capsys.readouterr().out


def test_what_goes_wrong_is_one_line(
    heard: list[str], call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("x" * 32)
    many = tmp_path / "many.wav"
    many.write_bytes(wav_bytes(np.zeros((3, 800), np.float32), 8000))
    url = heard[2]
    cases = [
        ([*heard, "absent.wav"], 1, "absent.wav"),
        ([*heard, str(many)], 2, "3 channels"),
        (["listen", str(call), "--url", url, "--api-key-file", str(wrong)], 1, "API key"),
        (["listen", str(call), "--url", "ws://127.0.0.1:9/v1/live"], 1, "serve running"),
        (["listen", str(call), "--url", "mailto:x"], 2, "no address"),
        ([*heard, str(call), "--no-vad"], 1, "voice activity"),
        ([*heard, str(call), "-o", str(wrong / "report.json")], 1, "cannot write"),
        ([*heard, str(call), "-o", str(tmp_path / "absent" / "report.json")], 1, "cannot write"),
    ]
    for arguments, code, part in cases:
        assert main(arguments) == code, arguments
        printed, error = capsys.readouterr()
        assert printed == ""
        assert part in error
        assert error.count("\n") == 1


def test_no_call_begins_without_a_microphone(
    heard: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Absent(MetaPathFinder, Loader):
        def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
            return ModuleSpec(name, self) if name == "sounddevice" else None

        def exec_module(self, _: object) -> None:
            raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    assert main(heard) == 1
    printed, error = capsys.readouterr()
    assert printed == ""
    assert "PortAudio" in error
    assert error.count("\n") == 1
