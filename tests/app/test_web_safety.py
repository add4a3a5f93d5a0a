"""The page keeps what it is given to itself, and answers only to its own machine."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audio_files import write_wav
from fakes import FakeEngine

from speechmeta.app import _analyze, _once, _told
from speechmeta.errors import AudioError
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions
from speechmeta.web_safety import OwnPagesOnly, PrivateFiles, allowed, without_places


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_are_private_go_after_an_hour_and_at_the_end(tmp_path: Path) -> None:
    place = PrivateFiles(tmp_path)
    old, new = place.uploads / "old.wav", place.new_folder() / "new.json"
    for path in (old, new):
        path.write_text("voice")
        path.chmod(0o644)
    assert mode(place.folder) == 0o700
    os.utime(old, (time.time() - 3700,) * 2)
    assert place.sweep() == 1
    assert not old.exists()
    assert mode(new) == 0o600
    assert place.sweep(time.time() + 4000) == 1
    assert place.uploads.is_dir()
    place.close()
    assert not place.folder.exists()


def test_what_a_killed_page_left_goes_at_the_next_start(tmp_path: Path) -> None:
    left, served = tmp_path / "speechmeta-app-left", tmp_path / "speechmeta-app-served"
    for folder, age in ((left, 7200), (served, 10)):
        folder.mkdir()
        (folder / "a.wav").write_text("voice")
        for path in (folder / "a.wav", folder):
            os.utime(path, (time.time() - age,) * 2)
    PrivateFiles(tmp_path).close()
    assert not left.exists()
    assert served.exists()


@pytest.mark.parametrize(
    ("headers", "answered"),
    [
        ({b"host": b"127.0.0.1:7860"}, True),
        ({b"host": b"localhost:7860", b"origin": b"http://localhost:7860"}, True),
        ({b"host": b"[::1]:7860", b"origin": b"http://127.0.0.1:7860"}, True),
        ({b"host": b"evil.example:7860"}, False),
        ({b"host": b"127.0.0.1.evil.example"}, False),
        ({b"host": b"127.0.0.1:7860", b"origin": b"https://evil.example"}, False),
        ({b"host": b"127.0.0.1:7860", b"origin": b"http://127.0.0.1:9999"}, False),
        ({b"host": b"127.0.0.1:7860", b"origin": b"null"}, False),
        ({b"host": b"127.0.0.1:x"}, False),
        ({}, False),
    ],
)
def test_only_the_own_machine_is_answered(headers: dict[bytes, bytes], answered: bool) -> None:
    assert allowed(headers) is answered
    sent: list[Any] = []
    reached: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    for kind in ("http", "websocket", "lifespan"):
        scope = {"type": kind, "headers": list(headers.items())}
        asyncio.run(OwnPagesOnly(app)(scope, receive, send))
    assert reached == (["http", "websocket", "lifespan"] if answered else ["lifespan"])
    assert answered or (sent[0]["status"], sent[2]["type"]) == (403, "websocket.close")


class Told(Exception):
    def __init__(self, text: str, print_exception: bool) -> None:
        super().__init__(text)


def test_errors_say_nothing_of_places_on_the_server() -> None:
    path = "/tmp/speechmeta-app-x1/uploads/abc/call.wav"
    gradio = type("Gradio", (), {"Error": Told})
    error = AudioError(f"{path} is empty", f"look into {Path(path).parent}")
    for found in (_told(gradio, error, path), _told(gradio, KeyError(path), path)):
        assert "/tmp" not in str(found)
    assert without_places(f"{path} is empty", path) == "call.wav is empty"


def _speech(shared_dir: Path) -> Path:
    found = sorted((shared_dir / "cases" / "08-stdout-encoding").glob("plain.wav"))
    if not found:
        pytest.skip("the recording is not here")
    return found[0]


def test_an_analysis_stops_when_nobody_asks_for_more(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechmeta.app._LOOK_SECONDS", 0.01)
    place = PrivateFiles(tmp_path)
    looked = threading.Event()

    def after_a_look() -> Analyzer:
        # However quick the machine is, the visitor looks before the analysis ends.
        assert looked.wait(60)
        return Analyzer.from_engine(FakeEngine())

    steps = _analyze(after_a_look, str(_speech(shared_dir)), CallOptions(), place)
    assert next(steps) is None
    looked.set()
    steps.close()
    assert not list(place.folder.glob("results-*"))
    place.close()


def test_an_analysis_stops_while_it_still_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks: list[int] = []

    def endless(self: Any) -> Any:
        while True:
            blocks.append(1)
            time.sleep(0.01)
            yield np.zeros((1, 5120), np.float32)

    monkeypatch.setattr("speechmeta.audio.recording.Recording._read", endless)
    place = PrivateFiles(tmp_path)
    analyzer = Analyzer.from_engine(FakeEngine())
    path = write_wav(tmp_path / "a.wav", np.zeros(8000), 8000)
    steps = _analyze(lambda: analyzer, str(path), CallOptions(), place)
    while len(blocks) < 2:
        assert next(steps) is None
    steps.close()
    seen = len(blocks)
    time.sleep(0.1)
    assert len(blocks) == seen
    place.close()


def test_a_model_is_loaded_once_however_many_ask() -> None:
    made: list[int] = []

    def make() -> int:
        time.sleep(0.05)
        made.append(1)
        return len(made)

    get = _once(make)
    with ThreadPoolExecutor(4) as threads:
        found = [threads.submit(get) for _ in range(4)]
    assert [item.result() for item in found] == [1, 1, 1, 1]


def test_analyses_take_turns_at_one_model(
    shared_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyzer = Analyzer.from_engine(FakeEngine())
    inside = threading.Semaphore(1)
    original = analyzer.engine.decode
    clashes: list[int] = []

    def decode(*arguments: Any) -> Any:
        if not inside.acquire(blocking=False):
            clashes.append(1)
            return original(*arguments)
        time.sleep(0.02)
        inside.release()
        return original(*arguments)

    monkeypatch.setattr(analyzer.engine, "decode", decode)
    path = str(_speech(shared_dir))
    reports: list[Any] = []
    threads = [
        threading.Thread(target=lambda: reports.append(analyzer.analyze_call(path)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 3
    assert not clashes
    assert reports[0] == reports[1] == reports[2]
