"""Live calls over WebSockets: what comes of them, beside what comes of the same sound as a file."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from live_client import (
    STOP,
    connected,
    frames_of,
    kinds,
    mulaw,
    pcm,
    report_of,
    said,
    start,
    turns_of,
)
from serving import Running, running, wav_bytes
from voices import Call, make_call
from websockets.exceptions import InvalidStatus

from speechmeta.audio.live_frames import samples_of
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.schema import CallReport

pytestmark = pytest.mark.slow

KEY = "k" * 32


@pytest.fixture(scope="module")
def live() -> Iterator[Running]:
    with running(client_seconds=20.0) as found:
        yield found


@pytest.fixture(scope="module")
def call() -> Call:
    return make_call(rate=8000)


def of_file(live: Running, sound: bytes) -> CallReport:
    return Analyzer.from_engine(live.engine).analyze_call(sound)


def test_two_channels_give_what_the_file_gives(live: Running, call: Call) -> None:
    with connected(live) as socket:
        sound = frames_of(pcm(call.waveform), 640)
        found = said(socket, [start(8000, 2), *sound, STOP])
        assert socket.close_code == 1000
    file = of_file(live, wav_bytes(call.waveform, 8000))
    turns, report = turns_of(found), report_of(found)
    assert [turn["speaker"] for turn in turns] == [turn.speaker for turn in file.turns]
    for turn, other in zip(turns, file.turns, strict=True):
        assert turn["start"] == pytest.approx(other.start, abs=0.1)
        assert turn["end"] == pytest.approx(other.end, abs=0.1)
    assert CallReport.model_validate(report).turns == [
        type(file.turns[0]).model_validate(turn) for turn in turns
    ]
    assert report["audio"]["duration"] == pytest.approx(file.audio.duration)
    assert report["audio"]["codec"] == "pcm_s16le"
    assert kinds(found)[0] == "ready"
    assert kinds(found)[-1] == "report"
    assert {"measures", "speakers", "turn"} <= set(kinds(found))
    last = [item for item in found if item["type"] == "speakers"][-1]
    assert {item["speaker"] for item in last["speakers"]} == {"speaker_0", "speaker_1"}
    assert all("talk_share" in item for item in last["speakers"])


def test_mulaw_is_what_the_file_holds(live: Running, call: Call) -> None:
    sound = mulaw(call.waveform)
    with connected(live) as socket:
        message = start(8000, 2, encoding="mulaw", options={"roles": "agent,customer"})
        found = said(socket, [message, *frames_of(sound, 320), STOP])
    heard = samples_of(sound, "pcm_mulaw", 2)
    file = of_file(live, wav_bytes(heard, 8000))
    assert len(turns_of(found)) == len(file.turns)
    assert {turn["speaker"] for turn in turns_of(found)} == {"agent", "customer"}


def test_one_channel_is_told_apart_by_voice(live: Running, call: Call) -> None:
    mono = call.waveform.sum(axis=0, keepdims=True)
    with connected(live) as socket:
        found = said(socket, [start(8000, 1), *frames_of(pcm(mono), 3200), STOP])
    file = of_file(live, wav_bytes(mono, 8000))
    report = report_of(found)
    assert len(report["turns"]) == len(file.turns)
    assert {turn["speaker"] for turn in report["turns"]} == {turn.speaker for turn in file.turns}
    assert report["warnings"] == file.warnings == []


def test_speakers_who_were_asked_for_and_not_found_are_named(live: Running, call: Call) -> None:
    mono = call.waveform.sum(axis=0, keepdims=True)
    with connected(live) as socket:
        begin = start(8000, 1, options={"speakers": 9})
        report = report_of(said(socket, [begin, *frames_of(pcm(mono), 3200), STOP]))
    found = len(report["speakers"])
    assert 1 <= found < 9
    (warning,) = report["warnings"]
    seconds = report["coverage"]["speech_seconds"]
    assert f"9 speakers were asked for, but only {found} w" in warning
    assert f"in {seconds:.1f} s of speech" in warning
    with connected(live) as socket:
        assert not report_of(said(socket, [begin, bytes(32000), STOP]))["turns"]


def test_partial_words_come_before_their_turn(live: Running, call: Call) -> None:
    with connected(live) as socket:
        found = said(socket, [start(8000, 2), *frames_of(pcm(call.waveform), 640), STOP])
        partials = [item for item in found if item["type"] == "partial"]
        assert partials
        assert all(item["Transcript"] for item in partials)
    with connected(live) as socket:
        message = start(8000, 2, partials=False)
        found = said(socket, [message, *frames_of(pcm(call.waveform), 640), STOP])
        # Words of a turn that ended early may be known before its pause has passed: none is told.
        assert "partial" not in kinds(found)


def test_silence_is_a_call_without_turns(live: Running) -> None:
    with connected(live) as socket:
        found = said(socket, [start(16000, 1), bytes(32000), bytes(32000), STOP])
    assert turns_of(found) == []
    assert report_of(found)["turns"] == []
    assert report_of(found)["audio"]["duration"] == 2.0


def test_nothing_at_all_is_a_call_too(live: Running) -> None:
    with connected(live) as socket:
        found = said(socket, [start(8000, 2), STOP])
        assert (socket.close_code, socket.close_reason) == (1000, "")
    assert report_of(found)["audio"]["duration"] == 0.0


def test_what_a_policy_leaves_out_is_never_sent(live: Running, call: Call) -> None:
    options = {"policy": "eu-workplace", "roles": "agent,customer"}
    with connected(live) as socket:
        message = start(8000, 2, options=options)
        found = said(socket, [message, *frames_of(pcm(call.waveform), 1600), STOP])
    for turn in turns_of(found):
        assert "Transcript" in turn
        assert "Age" not in turn
        assert ("Emotion" in turn) == (turn["speaker"] == "customer" and "Emotion" in turn)
    agent = [turn for turn in turns_of(found) if turn["speaker"] == "agent"]
    assert agent
    assert not any("Emotion" in turn for turn in agent)


def test_no_words_before_their_time_where_numbers_are_redacted(live: Running, call: Call) -> None:
    with connected(live) as socket:
        message = start(8000, 2, options={"redact": True})
        found = said(socket, [message, *frames_of(pcm(call.waveform), 1600), STOP])
    assert "partial" not in kinds(found)
    turns = sorted(turns_of(found), key=lambda turn: float(turn["start"]))
    assert turns == report_of(found)["turns"]


def test_a_key_is_needed_where_there_are_keys(tmp_path_factory: pytest.TempPathFactory) -> None:
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text(KEY)
    with running(api_key_file=str(keys)) as live:
        with pytest.raises(InvalidStatus) as refused, connected(live):
            pass
        assert refused.value.response.status_code == 401
        headers = {"Authorization": f"Bearer {KEY}"}
        with connected(live, additional_headers=headers) as socket:
            assert kinds(said(socket, [start(8000, 1), STOP])) == ["ready", "report"]


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ({"rate": 44100}, "rate"),
        ({"channels": 3}, "channels"),
        ({"surprise": 1}, "surprise"),
        ({"options": {"vad": False}}, "voice activity"),
        ({"options": {"roles": "a,b,c"}, "channels": 2}, "roles"),
        ({"options": {"no_such": 1}}, "no_such"),
        ({"options": {"limits": {"max_hours": 100}}}, "limits"),
        ({"language": "xx"}, "language"),
        ({"prompt": "\ud800"}, "half a character"),
        ({"options": {"roles": "\ud800"}}, "half a character"),
    ],
)
def test_a_start_that_cannot_be(live: Running, message: dict[str, object], part: str) -> None:
    with connected(live) as socket:
        found = said(socket, [json.dumps({"type": "start", **message})])
        assert socket.close_code == 1008
    assert kinds(found) == ["error"]
    assert found[0]["fatal"]
    assert part in found[0]["message"] + found[0]["hint"]
