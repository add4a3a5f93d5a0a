"""Clients of live calls that leave, dawdle, flood and send nonsense; the others do not notice."""

from __future__ import annotations

import contextlib
import logging
import socket as sockets
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from live_client import (
    STOP,
    Message,
    connected,
    frames_of,
    kinds,
    pcm,
    report_of,
    said,
    start,
    turns_of,
    until_closed,
)
from serving import Running, running
from voices import Call, make_call
from websockets.exceptions import ConnectionClosed, InvalidStatus

from speechmeta.errors import DecodingError
from speechmeta.server import live_api, live_session

pytestmark = pytest.mark.slow

MOST = 3


@pytest.fixture(scope="module")
def live() -> Iterator[Running]:
    with running(client_seconds=2.0, max_live=MOST, live_hours=0.02) as found:
        yield found


@pytest.fixture(scope="module")
def sound() -> list[bytes]:
    call: Call = make_call(rate=8000, turns=2)
    return frames_of(pcm(call.waveform), 640)


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def free(live: Running) -> bool:
    load = live.server.served.service.load
    places = live.server.served.hall._places
    return not places and (load.waiting, load.decoding, load.turns) == (0, 0, 0)


@pytest.fixture(autouse=True)
def nothing_is_left(live: Running) -> Iterator[None]:
    yield
    until(lambda: free(live))


def answers(live: Running, sound: list[bytes]) -> None:
    """An ordinary call still gets what is its own."""
    with connected(live) as socket:
        found = said(socket, [start(8000, 2), *sound, STOP])
    assert len(turns_of(found)) == 2
    assert len(report_of(found)["turns"]) == 2


def test_junk_is_told_borne_and_then_ends_the_call(live: Running, sound: list[bytes]) -> None:
    junk: list[str | bytes] = ["{", "[]", '{"type": "surprise"}', b"abc", "\x00" * 50]
    with connected(live) as socket:
        found = said(socket, [start(8000, 2), *junk, *sound, STOP])
    errors = [item for item in found if item["type"] == "error"]
    assert len(errors) == len(junk)
    assert not any(item["fatal"] for item in errors)
    assert len(report_of(found)["turns"]) == 2
    with connected(live) as socket:
        socket.send(start(8000, 2))
        for _ in range(live_api.MOST_JUNK + 1):
            socket.send("{")
        found = until_closed(socket)
        assert socket.close_code == 1008
        assert found[-1]["fatal"]
    assert "report" not in kinds(found)


def test_who_is_silent_is_let_go(live: Running) -> None:
    with connected(live) as socket:
        socket.send(start(8000, 1))
        found = until_closed(socket, 60)
    assert found[-1]["fatal"]
    assert "nothing came" in found[-1]["message"]


def test_who_never_begins_is_let_go(live: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_api, "START_SECONDS", 0.3)
    with connected(live) as socket:
        found = until_closed(socket, 60)
    assert found[-1]["fatal"]
    assert "no call began" in found[-1]["message"]


def test_a_message_that_is_too_large_ends_the_call(live: Running) -> None:
    with connected(live) as socket:
        socket.send(start(16000, 1))
        with contextlib.suppress(ConnectionClosed):
            socket.send(bytes(2**20))
        assert "report" not in kinds(until_closed(socket))
        assert socket.close_code == 1009


def test_who_leaves_in_the_middle_frees_everything(
    live: Running, sound: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    live.engine.gate.clear()
    try:
        with connected(live) as socket:
            socket.send(start(8000, 2))
            for frame in sound:
                socket.send(frame)
            until(lambda: live.server.served.service.load.decoding > 0)
            with caplog.at_level(logging.INFO, "speechmeta.server"):
                # No closing handshake, in the middle of a frame.
                socket.socket.sendall(b"\x82\xfe\x10\x00")
                reset(socket.socket)
                until(lambda: not live.server.served.hall._places)
    finally:
        live.engine.gate.set()
    until(lambda: free(live))
    (line,) = [record for record in caplog.records if record.getMessage() == "live"]
    assert vars(line)["status"] == live_api.CLIENT_LEFT
    assert vars(line)["kind"] == "ClientLeft"


def reset(socket: sockets.socket) -> None:
    socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
    socket.shutdown(sockets.SHUT_RDWR)


def test_a_flood_is_read_slowly_and_others_are_served(live: Running, sound: list[bytes]) -> None:
    ended = threading.Event()

    def flood() -> None:
        loud = pcm(np.random.default_rng(1).uniform(-0.5, 0.5, (1, 8000)).astype(np.float32))
        with connected(live) as socket:
            socket.send(start(8000, 1, options={"speakers": 1}))
            try:
                while not ended.is_set():
                    socket.send(loud)
                    socket.send("{")
            except ConnectionClosed:
                return

    def trickle() -> None:
        with connected(live) as socket:
            socket.send(start(8000, 1))
            try:
                while not ended.is_set():
                    socket.send(b"")
                    time.sleep(0.001)
            except ConnectionClosed:
                return

    with ThreadPoolExecutor(2) as pool:
        running_ones = [pool.submit(flood), pool.submit(trickle)]
        answers(live, sound)
        ended.set()
        for item in running_ones:
            item.result(60)


def test_sound_ahead_is_not_held_without_bound(
    live: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the model is busy, who sends faster than it works is not read."""
    monkeypatch.setattr(live_session, "MOST_ASKED", 4)
    live.engine.gate.clear()
    wave = np.tile(make_call(rate=8000, turns=2).waveform, 8)
    sent = 0
    try:
        with connected(live) as socket:
            socket.send(start(8000, 2, partials=False))
            socket.socket.settimeout(2.0)
            with contextlib.suppress(TimeoutError, ConnectionClosed):
                for frame in frames_of(pcm(wave), 16000) * 60:
                    socket.send(frame)
                    sent += len(frame) // 4
    finally:
        live.engine.gate.set()
    assert sent / 8000 < 3600


def test_no_more_calls_than_there_may_be(live: Running) -> None:
    with ThreadPoolExecutor(MOST) as pool:
        release = threading.Event()
        begun = threading.Barrier(MOST + 1)

        def hold() -> list[Message]:
            with connected(live) as socket:
                socket.send(start(8000, 1))
                socket.recv(timeout=60)
                begun.wait(60)
                while not release.wait(0.3):
                    socket.send(bytes(160))
                return said(socket, [STOP])

        held = [pool.submit(hold) for _ in range(MOST)]
        begun.wait(60)
        with pytest.raises(InvalidStatus) as refused, connected(live):
            pass
        assert refused.value.response.status_code == 429
        assert refused.value.response.headers["Retry-After"]
        release.set()
        assert all(kinds(item.result(60))[-1] == "report" for item in held)


def test_a_call_that_is_too_long_ends_with_its_report(live: Running) -> None:
    with connected(live) as socket:
        found = said(socket, [start(8000, 1), *[bytes(16000)] * 80])
    assert kinds(found)[-2:] == ["closing", "report"]
    assert report_of(found)["audio"]["duration"] == pytest.approx(72, abs=1)


def test_another_sites_page_is_refused(live: Running) -> None:
    with pytest.raises(InvalidStatus) as refused, connected(live, origin="https://other.example"):
        pass
    assert refused.value.response.status_code == 403


def test_a_turn_that_fails_is_told_and_the_call_goes_on(
    live: Running, sound: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(waveforms: list[object], *others: object) -> list[DecodingError]:
        monkeypatch.undo()
        return [DecodingError("it broke") for _ in waveforms]

    monkeypatch.setattr(live.engine, "decode", decode)
    with connected(live) as socket:
        found = said(socket, [start(8000, 2, partials=False), *sound, STOP])
    (failed,) = [item for item in found if item["type"] == "failed"]
    assert failed["error"]["message"] == "it broke"
    assert len(turns_of(found)) == 1
    assert any("it broke" in text for text in report_of(found)["warnings"])


def test_the_log_names_nothing_that_was_said(
    live: Running, sound: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "speechmeta.server"):
        answers(live, sound)
        until(lambda: bool(caplog.records))
    (line,) = [record for record in caplog.records if record.getMessage() == "live"]
    assert vars(line)["status"] == 200
    assert vars(line)["turns"] == 2
    assert vars(line)["audio_seconds"] > 5
    with live.client() as http:
        text = http.get("/metrics").text
    assert "speechmeta_live 0.0" in text
    assert "speechmeta_live_delay_seconds_count" in text


def test_a_server_that_is_stopped_tells_its_calls(sound: list[bytes]) -> None:
    found: list[Message] = []
    with running(drain_seconds=20) as live, connected(live) as socket:
        hearing = threading.Thread(target=until_closed, args=(socket, 120.0, found))
        hearing.start()
        socket.send(start(8000, 2))
        for frame in sound:
            socket.send(frame)
        until(lambda: bool(turns_of(found)))
        live.stop()
        hearing.join(60)
        assert (socket.close_code, socket.close_reason) == (1012, "the server is being stopped")
    assert "closing" in kinds(found)
    assert kinds(found)[-1] == "report"
    assert report_of(found)["turns"]
