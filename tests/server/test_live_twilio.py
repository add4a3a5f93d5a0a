"""Twilio Media Streams' messages as they are: a recorded exchange, and what may go wrong in one."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_client import Message, connected, kinds, report_of, said, turns_of, until_closed
from serving import Running, running

from speechmeta.audio.live_frames import mulaw_table
from speechmeta.errors import UsageError
from speechmeta.server.live_messages import Beginning, Ended, TwilioWire

RECORDED = Path(__file__).with_name("twilio_call.jsonl").read_text().splitlines()
PATH = "/v1/live/twilio"
KEY = "k" * 32


@pytest.fixture(scope="module")
def live() -> Iterator[Running]:
    with running(client_seconds=20.0) as found:
        yield found


def changed_start(**parameters: str) -> str:
    start = json.loads(RECORDED[1])
    start["start"]["customParameters"] = parameters
    return json.dumps(start)


@pytest.mark.slow
def test_a_recorded_call(live: Running) -> None:
    with connected(live, PATH) as socket:
        found = said(socket, RECORDED)
    ready = found[0]
    assert (ready["type"], ready["rate"], ready["channels"]) == ("ready", 8000, 2)
    turns = turns_of(found)
    assert [(turn["channel"], turn["speaker"]) for turn in turns] == [(1, "agent"), (0, "customer")]
    assert [turn["start"] for turn in turns] == pytest.approx([0.352, 3.648], abs=0.1)
    assert report_of(found)["turns"] == turns
    assert report_of(found)["audio"]["codec"] == "pcm_mulaw"


@pytest.mark.slow
def test_events_go_to_who_watches_the_call(live: Running) -> None:
    """Twilio takes no messages of ours, so they are watched by the call's name."""
    start, name = changed_start(), json.loads(RECORDED[1])["start"]["callSid"]
    found: list[Message] = []
    watching = threading.Event()

    def watch() -> None:
        with live.client() as http, http.stream("GET", f"/v1/live/{name}") as answer:
            assert answer.status_code == 200
            watching.set()
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    found.append(json.loads(line[6:]))

    with connected(live, PATH) as socket:
        socket.send(RECORDED[0])
        socket.send(start)
        hall = live.server.served.hall
        while not any(name in place.names for place in hall._places):
            threading.Event().wait(0.02)
        watcher = threading.Thread(target=watch)
        watcher.start()
        assert watching.wait(60)
        for message in RECORDED[2:-1]:
            socket.send(message)
        # Twilio closes its connection; the report comes nevertheless.
    watcher.join(60)
    assert not watcher.is_alive()
    assert len(turns_of(found)) == 2
    assert kinds(found)[-1] == "report"
    with live.client() as http:
        assert http.get(f"/v1/live/{name}").status_code == 404


@pytest.mark.slow
def test_the_key_comes_as_a_parameter(tmp_path_factory: pytest.TempPathFactory) -> None:
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text(KEY)
    with running(api_key_file=str(keys)) as live:
        for parameters in ({}, {"api_key": "x" * 32}):
            with connected(live, PATH) as socket:
                socket.send(changed_start(**parameters))
                assert until_closed(socket)[0]["type"] == "error"
                assert socket.close_code == 1008
        with connected(live, PATH) as socket:
            found = said(socket, [changed_start(api_key=KEY, events="here"), RECORDED[-1]])
            assert kinds(found) == ["ready", "report"]


# The wire alone.


def begun(*tracks: str) -> TwilioWire:
    wire = TwilioWire()
    start = json.loads(RECORDED[1])
    start["start"]["tracks"] = list(tracks)
    assert isinstance(wire.text(json.dumps(start)), Beginning)
    return wire


def media(track: str, timestamp: int, code: int, samples: int = 160) -> str:
    payload = base64.b64encode(bytes([code]) * samples).decode()
    own = {"track": track, "chunk": "1", "timestamp": str(timestamp), "payload": payload}
    return json.dumps({"event": "media", "media": own})


def heard(wire: TwilioWire, messages: list[str]) -> Any:
    parts = [part for message in messages if isinstance(part := wire.text(message), np.ndarray)]
    return np.concatenate([*parts, wire.rest()], axis=1)


LOUD, SOFT = 0x00, 0x50


def test_tracks_stay_beside_each_other_though_one_pauses() -> None:
    wire = begun("inbound", "outbound")
    messages = [media("inbound", 20 * n, LOUD) for n in range(100)]
    # The other says nothing for a second, and then 20 ms.
    messages.insert(51, media("outbound", 1000, SOFT))
    sound = heard(wire, messages)
    assert sound.shape == (2, 16000)
    assert (sound[0] == mulaw_table()[LOUD]).all()
    assert np.flatnonzero(sound[1] == mulaw_table()[SOFT]).tolist() == list(range(8000, 8160))


def test_what_comes_too_late_is_dropped_and_moves_nothing() -> None:
    wire = begun("inbound", "outbound")
    messages = [media("inbound", 20 * n, LOUD) for n in range(100)]
    messages.insert(80, media("outbound", 0, SOFT))
    sound = heard(wire, messages)
    assert sound.shape == (2, 16000)
    assert not sound[1].any()


def test_one_track_is_one_channel() -> None:
    sound = heard(begun("inbound"), [media("inbound", 20 * n, LOUD) for n in range(10)])
    assert sound.shape == (1, 1600)


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ("[]", "no JSON object"),
        ("{", "no JSON"),
        ('{"event": "surprise"}', "surprise"),
        ('{"event": "media", "media": {"timestamp": "0", "payload": "%%%"}}', "base64"),
        ('{"event": "media", "media": {"timestamp": "x", "payload": ""}}', "timestamp"),
        ('{"event": "media", "media": {"timestamp": "99999999", "payload": ""}}', "far ahead"),
        (media("outbound", 0, LOUD), "not announced"),
        (RECORDED[1], "begun already"),
    ],
)
def test_messages_that_mean_nothing(message: str, part: str) -> None:
    wire = begun("inbound")
    wire.text(media("inbound", 0, LOUD))
    with pytest.raises(UsageError, match=part):
        wire.text(message)


def test_sound_before_its_start_is_refused() -> None:
    wire = TwilioWire()
    assert wire.text(RECORDED[0]) is None
    with pytest.raises(UsageError, match="not begun"):
        wire.text(media("inbound", 0, LOUD))
    with pytest.raises(UsageError, match="no binary"):
        wire.frame(b"x")


def test_the_end_is_the_end() -> None:
    assert isinstance(begun("inbound").text(RECORDED[-1]), Ended)
