"""What the server answers: OpenAI's interface, reports, events, and errors, over real sockets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from serving import Running, running, tone_bytes, wav_bytes
from voices import make_call

from speechmeta.errors import SpeechMetaError
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions
from speechmeta.schema import CallReport
from speechmeta.server.parameters import ENTRIES, call_options
from speechmeta.server.problems import Refused
from speechmeta.server.uploads import safe_name
from speechmeta.settings import entries
from speechmeta.writers.structured import document
from speechmeta.writers.subtitles import SrtWriter, VttWriter

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recordings that may be named, beside one that may not."""
    place = tmp_path_factory.mktemp("calls")
    (place / "root" / "sub").mkdir(parents=True)
    (place / "secret.wav").write_bytes(tone_bytes())
    (place / "root" / "sub" / "tone.wav").write_bytes(tone_bytes())
    (place / "root" / "link.wav").symlink_to(place / "secret.wav")
    return place / "root"


@pytest.fixture(scope="module")
def live(root: Path) -> Iterator[Running]:
    with running(root=(str(root),), max_upload_mb=1) as found:
        yield found


@pytest.fixture(scope="module")
def call() -> bytes:
    made = make_call(rate=8000)
    return wav_bytes(made.waveform, made.rate)


@pytest.fixture(scope="module")
def report(call: bytes, live: Running) -> CallReport:
    return Analyzer.from_engine(live.engine).analyze_call(call)


@pytest.fixture
def client(live: Running) -> Iterator[openai.OpenAI]:
    address = f"{live.address}/v1"
    with openai.OpenAI(base_url=address, api_key="unused", max_retries=0) as found:
        yield found


def transcript(report: CallReport) -> str:
    return " ".join(str(turn.meta.transcript) for turn in report.turns)


class TestOpenAI:
    def test_each_format(self, client: openai.OpenAI, call: bytes, report: CallReport) -> None:
        create: Any = client.audio.transcriptions.create
        sent: dict[str, Any] = {"file": ("call.wav", call), "model": "whisper-1"}
        assert create(**sent).text == transcript(report)
        assert create(**sent, response_format="text") == transcript(report) + "\n"
        assert create(**sent, response_format="srt") == SrtWriter().text(report)
        assert create(**sent, response_format="vtt") == VttWriter().text(report)

    def test_one_speaker_needs_no_name(self, client: openai.OpenAI, call: bytes) -> None:
        create: Any = client.audio.transcriptions.create
        text = create(
            file=("call.wav", call), model="fake", response_format="srt",
            extra_body={"channels": "mono", "speakers": 1},
        )  # fmt: skip
        assert "-->" in text
        assert "speaker" not in text

    def test_verbose(self, client: openai.OpenAI, call: bytes, report: CallReport) -> None:
        answer: Any = client.audio.transcriptions.create(
            file=("call.wav", call),
            model="fake",
            response_format="verbose_json",
            timestamp_granularities=["segment", "word"],
        )
        assert answer.duration == pytest.approx(report.audio.duration, abs=0.001)
        assert answer.text == transcript(report)
        assert [(segment.start, segment.end, segment.text) for segment in answer.segments] == [
            (turn.start, turn.end, turn.meta.transcript) for turn in report.turns
        ]
        for segment, turn in zip(answer.segments, report.turns, strict=True):
            assert segment.speechmeta["Gender"] == turn.meta.gender
            assert segment.speechmeta["speaker"] == turn.speaker
            assert segment.no_speech_prob == pytest.approx(
                1 - turn.confidence["SpeechActivity"], abs=1e-3
            )
        assert answer.words == []
        assert answer.speechmeta["model"]["name"] == "fake"

    def test_stream(self, client: openai.OpenAI, call: bytes, report: CallReport) -> None:
        create: Any = client.audio.transcriptions.create
        for more in ({}, {"extra_body": {"redact": True}}, {"response_format": "text"}):
            with create(file=("c.wav", call), model="fake", stream=True, **more) as events:
                found = list(events)
            deltas = [event.delta for event in found if event.type == "transcript.text.delta"]
            assert len(deltas) == len(report.turns)
            assert found[-1].type == "transcript.text.done"
            assert found[-1].text == "".join(deltas) == transcript(report)

    def test_speakers(self, client: openai.OpenAI, call: bytes, report: CallReport) -> None:
        create: Any = client.audio.transcriptions.create
        asked: Any = {"file": ("c.wav", call), "model": "fake", "response_format": "diarized_json",
                      "chunking_strategy": "auto"}  # fmt: skip
        whole = create(**asked)
        assert isinstance(whole, openai.types.audio.TranscriptionDiarized)
        wanted = [
            (turn.start, turn.end, turn.speaker, turn.meta.transcript) for turn in report.turns
        ]
        assert wanted
        with create(**asked, stream=True) as events:
            streamed = [event for event in events if event.type == "transcript.text.segment"]
        for segments in (whole.segments, streamed):
            assert [(item.start, item.end, item.speaker, item.text) for item in segments] == wanted

    def test_a_stream_of_no_audio(self, client: openai.OpenAI) -> None:
        create: Any = client.audio.transcriptions.create
        with pytest.raises(openai.UnprocessableEntityError, match=r"a\.wav is empty"):
            create(file=("a.wav", b""), model="fake", stream=True)

    def test_models(self, client: openai.OpenAI) -> None:
        found = client.models.list()
        assert [model.id for model in found] == ["fake", "whisper-1"]
        assert client.models.retrieve("fake").object == "model"
        with pytest.raises(openai.NotFoundError, match="this server has fake"):
            client.models.retrieve("gpt-9")

    @pytest.mark.parametrize(
        ("asked", "kind", "text"),
        [
            ({"model": "gpt-9"}, openai.NotFoundError, "this server has fake"),
            ({"model": ""}, openai.BadRequestError, "no model was named"),
            ({"language": "xx"}, openai.BadRequestError, "takes no language"),
            ({"prompt": "Acme"}, openai.BadRequestError, "takes no hotwords"),
            ({"temperature": 0.7}, openai.BadRequestError, "nothing is drawn at random"),
            ({"stream": True, "response_format": "srt"}, openai.BadRequestError, "diarized_json"),
            ({"chunking_strategy": {"type": "server_vad"}}, openai.BadRequestError, "chunking"),
            ({"include": ["logprobs"]}, openai.BadRequestError, "there is no option 'include"),
            ({"response_format": "xml"}, openai.BadRequestError, "choose from json, text"),
            (
                {"timestamp_granularities": ["word"]},
                openai.BadRequestError,
                "add response_format=verbose_json",
            ),
            ({"extra_body": {"chanels": "mono"}}, openai.BadRequestError, "did you mean 'channels"),
            ({"file": ("a.wav", b"no audio at all")}, openai.UnprocessableEntityError, "a.wav"),
            ({"file": ("a.wav", b"")}, openai.UnprocessableEntityError, "is empty"),
        ],
    )
    def test_what_is_refused(
        self, client: openai.OpenAI, asked: dict[str, Any], kind: type[Exception], text: str
    ) -> None:
        create: Any = client.audio.transcriptions.create
        with pytest.raises(kind, match=text) as refused:
            create(**{"file": ("a.wav", tone_bytes()), "model": "whisper-1", **asked})
        assert "speechmeta-serve" not in str(refused.value), "where uploads lie is nobody's matter"


class TestAnalyze:
    def test_the_document_is_that_of_analyze(
        self, live: Running, call: bytes, report: CallReport
    ) -> None:
        with live.client() as http:
            answer = http.post("/v1/analyze", files={"file": ("a call.wav", call)})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["audio"]["path"] == "a call.wav"
        wanted = document(report)
        wanted["audio"]["path"] = "a call.wav"
        assert found == wanted

    def test_events_are_the_turns_and_then_the_report(
        self, live: Running, call: bytes, report: CallReport
    ) -> None:
        with live.client() as http:
            answer = http.post("/v1/analyze", files={"file": ("c.wav", call)}, data={"stream": "1"})
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [
            (name, json.loads(data))
            for name, data in re.findall(r"event: (\w+)\ndata: (.*)\n\n", answer.text)
        ]
        assert [name for name, _ in events] == ["turn"] * len(report.turns) + ["report"]
        assert [data for _, data in events[:-1]] == document(report)["turns"]
        assert events[-1][1]["turns"] == document(report)["turns"]

    def test_nothing_private_is_sent_before_it_is_redacted(
        self, live: Running, call: bytes
    ) -> None:
        data = {"stream": "true", "redact": "true"}
        with live.client() as http:
            answer = http.post("/v1/analyze", files={"file": ("c.wav", call)}, data=data)
        assert re.findall(r"event: (\w+)", answer.text) == ["report"]

    def test_a_recording_of_the_server(self, live: Running) -> None:
        asked = {"path": "sub/tone.wav", "options": {"vad": False, "turns": {"padding_seconds": 0}}}
        with live.client() as http:
            found = http.post("/v1/analyze", json=asked).json()
            same = http.post("/v1/analyze", data={"path": "sub/tone.wav", "vad": "false"}).json()
        assert found["audio"]["path"] == "sub/tone.wav"
        assert [turn["Transcript"] for turn in found["turns"]] == ["1.0 seconds"]
        assert same == found

    @pytest.mark.parametrize(
        "path", ["../secret.wav", "link.wav", "sub", "absent.wav", "/etc/passwd", "a\0b", "~"]
    )
    def test_no_file_elsewhere_is_read(self, live: Running, root: Path, path: str) -> None:
        with live.client() as http:
            answer = http.post("/v1/analyze", json={"path": path})
            outside = http.post("/v1/analyze", json={"path": str(root.parent / "secret.wav")})
        assert answer.status_code in (400, 404)
        assert outside.status_code == 404
        assert set(answer.json()) == {"message", "hint", "type", "error"}

    @pytest.mark.parametrize(
        ("options", "status", "text"),
        [
            ({"min_confidence": 2}, 400, "min_confidence is '2'"),
            ({"roles": "a,a"}, 400, "give every speaker a different name"),
            ({"fields": "Mood"}, 400, "unknown field 'Mood'"),
            ({"speakers": "0"}, 400, "speakers is '0'"),
            ({"raw": "codec=nothing"}, 400, "codec"),
            ({"options": "{"}, 400, "options is no JSON"),
            ({"options": '{"turns": {"min_paus": 1}}'}, 400, "did you mean"),
            ({"options": "[]"}, 400, "no JSON object"),
            ({"stream": "maybe"}, 400, "stream is 'maybe'"),
            ({"word_times": "true", "fields": "Gender"}, 400, "without Transcript"),
            ({"max_hours": "25"}, 403, "this server allows 24"),
            ({"limits.min_rate": "1"}, 403, "this server allows 1000"),
            ({"speaker_model": "somebody/else"}, 403, "does not load the speaker model"),
            ({"max_hours": "0.0001"}, 422, "longer than 0.0001 hours"),
            ({"path": "a.wav"}, 400, "both a file and a path"),
        ],
    )
    def test_what_is_refused(
        self, live: Running, options: dict[str, Any], status: int, text: str
    ) -> None:
        with live.client() as http:
            answer = http.post("/v1/analyze", files={"file": ("a.wav", tone_bytes())}, data=options)
        assert answer.status_code == status, answer.text
        body = answer.json()
        assert text in f"{body['message']} ({body['hint']})"
        assert body["error"]["message"].startswith(body["message"])
        assert "Traceback" not in answer.text

    def test_the_words_are_those_of_analyze(self, live: Running, tmp_path: Path) -> None:
        path = tmp_path / "a.wav"
        for data in (b"", b"RIFF", tone_bytes()[:30], b"\0" * 999):
            path.write_bytes(data)
            with pytest.raises(SpeechMetaError) as told:
                Analyzer.from_engine(live.engine).analyze_call(path)
            with live.client() as http:
                answer = http.post("/v1/analyze", files={"file": ("a.wav", data)})
            assert 400 <= answer.status_code < 500
            assert answer.json()["message"] == told.value.message.replace(str(path), "a.wav")

    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            ({"content": b"x" * (1 << 21)}, 413),
            ({"files": {"file": ("a.wav", b"\0" * (1 << 21))}}, 413),
            ({"content": iter([b"x" * (1 << 20)] * 3)}, 415),
            (
                {
                    "content": iter([b"{" + b" " * (1 << 20)] * 3),
                    "headers": {"content-type": "application/json"},
                },
                413,
            ),
            ({"content": b"hello"}, 415),
            ({"content": b"--b", "headers": {"content-type": "multipart/form-data"}}, 400),
            ({"content": b"{", "headers": {"content-type": "application/json"}}, 400),
            ({"content": b"[" * 9999, "headers": {"content-type": "application/json"}}, 400),
            ({"json": {"path": 7}}, 400),
            ({"data": {"vad": "true"}}, 400),
            ({"files": {"sound": ("a.wav", b"")}}, 400),
            ({"files": [("file", ("a", b"")), ("file", ("b", b""))]}, 400),
        ],
    )
    def test_bodies_that_are_none(self, live: Running, sent: dict[str, Any], status: int) -> None:
        sent.setdefault("headers", {})
        with live.client() as http:
            answer = http.post("/v1/analyze", **sent)
        assert answer.status_code == status, answer.text
        assert answer.json()["message"]

    def test_nothing_is_left_on_the_disk(self, live: Running) -> None:
        assert list(live.server.served.uploads.iterdir()) == []
        assert live.server.served.uploads.parent.stat().st_mode & 0o77 == 0


def test_addresses_and_methods_that_there_are_not(live: Running) -> None:
    with live.client() as http:
        for answer, status in ((http.get("/v2"), 404), (http.get("/v1/analyze"), 405)):
            assert answer.status_code == status
            assert "GET /docs" in answer.json()["hint"]
        assert http.post("/v1/jobs", json={}).json()["hint"] == "start it with --state DIR"


def test_only_the_own_pages_are_answered(live: Running) -> None:
    with live.client() as http:
        rebound = http.get("/healthz", headers={"host": "evil.example"})
        foreign = http.post("/v1/analyze", headers={"origin": "https://evil.example"})
        allowed = http.get("/healthz")
    assert (rebound.status_code, foreign.status_code, allowed.status_code) == (403, 403, 200)
    assert rebound.json()["hint"] == "--allow-host adds one"
    assert not [name for name in allowed.headers if name.startswith("access-control")]


def test_the_page_of_the_interface_lists_every_option(live: Running) -> None:
    with live.client() as http:
        page = http.get("/openapi.json").json()
        assert http.get("/docs").status_code == 200
    body = page["paths"]["/v1/analyze"]["post"]["requestBody"]["content"]
    names = set(body["multipart/form-data"]["schema"]["properties"])
    assert {entry.parameter for entry in entries(CallOptions)} < names


def test_counters(live: Running) -> None:
    with live.client() as http:
        http.post("/v1/analyze", files={"file": ("secret-name.wav", tone_bytes())})
        http.post("/v1/analyze", files={"file": ("secret-name.wav", b"no")})
        text = http.get("/metrics").text
    for line in (
        'speechmeta_requests_total{method="POST",route="/v1/analyze",status="200"}',
        'speechmeta_errors_total{kind="AudioError"}',
        "speechmeta_audio_seconds_total",
        "speechmeta_rtfx_count",
        "speechmeta_batch_fill_count",
        'speechmeta_queue{stage="waiting"} 0.0',
    ):
        assert line in text
    assert "secret-name" not in text


def test_every_option_goes_by_each_of_its_names() -> None:
    base = CallOptions()
    for entry in ENTRIES.values():
        value: Any = entry.field.default
        for name in (entry.parameter, entry.key):
            if value is None:
                assert call_options(base, {name: ""}) == base
            else:
                assert call_options(base, {name: str(value)}) == base
    changed = call_options(base, {"min_pause": "2", "options": '{"roles": ["a", "b"]}'})
    assert (changed.turns.min_pause_seconds, changed.roles) == (2.0, ("a", "b"))
    assert call_options(base, {"turns": {"min_pause_seconds": 2}}).turns == changed.turns


def test_the_servers_own_options_are_the_default() -> None:
    base = CallOptions(redact=True, speaker_model="house/model")
    assert call_options(base, {}) == base
    assert call_options(base, {"redact": "false"}).redact is False
    with pytest.raises(Refused):
        call_options(base, {"speaker_model": "other/model"})


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("call.ulaw", "call.ulaw"),
        ("../../etc/passwd", "passwd"),
        ("C:\\calls\\a.wav", "a.wav"),
        ("", "recording"),
        ("..", "recording"),
        ("a\nb\0c.wav", "a_b_c.wav"),
        ("é" * 300 + ".wav", "_" * 116 + ".wav"),
    ],
)
def test_names_of_uploads(sent: str, kept: str) -> None:
    assert safe_name(sent) == kept
