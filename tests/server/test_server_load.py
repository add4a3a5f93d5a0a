"""The server under load and among clients that leave, dawdle, or send nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fakes import FakeEngine
from serving import Running, running, tone_bytes

from speechmeta.errors import MissingExtraError, SpeechMetaError, UsageError
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions, ModelOptions
from speechmeta.server import patience
from speechmeta.server.keys import Keys, load_keys
from speechmeta.server.log_lines import _Line, place_of
from speechmeta.server.options import ServeOptions
from speechmeta.server.problems import Busy, Refused, status_of
from speechmeta.server.web import Server

pytestmark = pytest.mark.slow

WHOLE = {"vad": "false"}


@pytest.fixture(scope="module")
def live() -> Iterator[Running]:
    with running(max_queue=3, request_seconds=200.0, client_seconds=2.0) as found:
        yield found


def post(live: Running, seconds: float = 1.0, **data: str) -> httpx2.Response:
    with live.client() as http:
        files = {"file": ("a.wav", tone_bytes(seconds))}
        return http.post("/v1/analyze", files=files, data={**WHOLE, **data})


def until(true: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def idle(live: Running) -> bool:
    load = live.server.served.service.load
    return (load.waiting, load.reading, load.decoding, load.turns) == (0, 0, 0, 0)


@pytest.fixture
def closed(live: Running) -> Iterator[Running]:
    """The model is busy until the gate is opened."""
    until(lambda: idle(live))
    while live.engine.entered.acquire(blocking=False):
        pass
    live.engine.gate.clear()
    yield live
    live.engine.gate.set()
    until(lambda: idle(live))


def test_turns_of_several_calls_share_a_batch(closed: Running) -> None:
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(post, closed, 1.0)
        assert closed.engine.entered.acquire(timeout=90)
        others = [pool.submit(post, closed, seconds) for seconds in (1.5, 2.0)]
        until(lambda: closed.server.served.service.load.turns == 2)
        closed.engine.calls.clear()
        closed.engine.gate.set()
        found = [item.result() for item in (first, *others)]
    assert [item.status_code for item in found] == [200, 200, 200]
    texts = [item.json()["turns"][0]["Transcript"] for item in found]
    assert texts == ["1.0 seconds", "1.5 seconds", "2.0 seconds"]
    assert sorted(closed.engine.calls[-1][0]) == [24000, 32000]


def test_calls_that_ask_for_other_things_do_not(closed: Running) -> None:
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(post, closed, 1.0)
        assert closed.engine.entered.acquire(timeout=90)
        others = [pool.submit(post, closed, 1.0, fields=name) for name in ("Gender", "Age")]
        until(lambda: closed.server.served.service.load.turns == 2)
        closed.engine.gate.set()
        found = [item.result() for item in (first, *others)]
    assert "Gender" in found[1].json()["turns"][0]
    assert "Gender" not in found[2].json()["turns"][0]
    assert sorted(fields for _, fields, _ in closed.engine.calls[-2:]) == [("Age",), ("Gender",)]


def test_more_than_the_queue_holds_come_back_later(closed: Running) -> None:
    with ThreadPoolExecutor(3) as pool:
        taken = [pool.submit(post, closed) for _ in range(3)]
        until(lambda: closed.server.served.admission.taken == 3)
        refused = post(closed)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["type"] == "rate_limit_error"
        with closed.client() as http:
            assert http.get("/readyz").status_code == 200, "others are still answered"
        closed.engine.gate.set()
        assert [item.result().status_code for item in taken] == [200] * 3
    assert post(closed).status_code == 200


def request_bytes(body: bytes, length: int | None = None) -> bytes:
    head = (
        "POST /v1/analyze HTTP/1.1\r\nhost: localhost\r\n"
        "content-type: multipart/form-data; boundary=b\r\n"
        f"content-length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


def form() -> bytes:
    parts = b'--b\r\ncontent-disposition: form-data; name="vad"\r\n\r\nfalse\r\n'
    parts += b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return parts + tone_bytes() + b"\r\n--b--\r\n"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_work(closed: Running, stream: bool) -> None:
    blocker = closed.connect()
    blocker.sendall(request_bytes(form()))
    assert closed.engine.entered.acquire(timeout=90)
    leaver = closed.connect()
    body = form()
    if stream:
        body = body.replace(b'name="vad"\r\n\r\nfalse', b'name="stream"\r\n\r\ntrue', 1)
    leaver.sendall(request_bytes(body))
    until(lambda: closed.server.served.service.load.decoding == 2 - stream or stream)
    leaver.close()
    blocker.close()
    until(lambda: closed.server.served.admission.taken == 0)
    decoded = len(closed.engine.calls)
    closed.engine.gate.set()
    until(lambda: idle(closed))
    assert len(closed.engine.calls) <= decoded + 1, "but for the batch that was begun already"
    until(lambda: list(closed.server.served.uploads.iterdir()) == [])


def test_a_request_that_takes_too_long_is_given_up(
    closed: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = closed.server.served.service
    short = service._options.updated({"request_seconds": 0.5})
    monkeypatch.setattr(service, "_options", short)
    answer = post(closed)
    assert answer.status_code == 504
    assert "/v1/jobs" in answer.json()["hint"]


class TestClients:
    def test_headers_that_do_not_come(self, live: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(patience, "HEADER_SECONDS", 0.5)
        for sent in (b"", b"POST /v1/analyze HTTP/1.1\r\nhost: local"):
            with live.connect() as slow:
                slow.sendall(sent)
                with contextlib.suppress(ConnectionError):
                    assert slow.recv(100) == b""

    def test_a_body_that_does_not_come(self, live: Running) -> None:
        with live.connect() as slow:
            slow.sendall(request_bytes(form()[:200], length=5000))
            answer = slow.recv(4000)
        assert b"408" in answer.split(b"\r\n")[0]
        assert post(live).status_code == 200

    def test_a_body_that_trickles(self, live: Running) -> None:
        with live.connect() as slow:
            slow.sendall(request_bytes(form()[:200], length=90_000))
            slow.settimeout(0.3)
            answer = b""
            end = time.monotonic() + 20
            while not answer and time.monotonic() < end:
                with contextlib.suppress(TimeoutError):
                    slow.sendall(b"x")
                    answer = slow.recv(4000)
        assert b" 408 " in answer

    @pytest.mark.parametrize(
        "sent",
        [
            b"\x16\x03\x01 this is no HTTP\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 100_000,
            b"POST /v1/analyze HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
            b"POST /v1/analyze HTTP/1.1\r\nhost: a b\r\ncontent-length: 1\r\n\r\nx",
        ],
    )
    def test_junk(self, live: Running, sent: bytes) -> None:
        with live.connect() as junk:
            junk.sendall(sent)
            answer = b""
            with contextlib.suppress(ConnectionError):
                answer = junk.recv(4000)
        assert not answer or int(answer.split()[1]) in (400, 403, 408, 413, 431)
        assert post(live).status_code == 200

    def test_a_flood_of_connections_harms_nobody(self, live: Running) -> None:
        flood = [live.connect() for _ in range(200)]
        try:
            assert post(live).status_code == 200
        finally:
            for connection in flood:
                connection.close()


def test_one_that_takes_nothing_is_left() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        await asyncio.sleep(60)

    async def receive() -> Any:
        return {"type": "http.request"}

    waiting = patience.Patience(app, 0.05)
    with pytest.raises(patience.Left):
        asyncio.run(waiting({"type": "http"}, receive, send))


class TestKeys:
    def test_strangers_are_not_let_in(self, tmp_path: Path) -> None:
        path = tmp_path / "keys"
        path.write_text("# ours\n" + "a" * 32 + "\n\n" + "b" * 32 + "\n")
        assert load_keys(ServeOptions(api_key_file=str(path), host="0.0.0.0"))
        with pytest.raises(UsageError, match="listens on loopback only"):
            load_keys(ServeOptions(host="0.0.0.0"))
        assert not load_keys(ServeOptions(host="::1"))
        assert not load_keys(ServeOptions(host="0.0.0.0", without_keys=True))
        with pytest.raises(UsageError, match="contradict"):
            load_keys(ServeOptions(api_key_file=str(path), without_keys=True))

    @pytest.mark.parametrize("text", ["", "# only a comment\n", "short\n", "ä" * 40 + "\n"])
    def test_keys_that_are_none(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "keys"
        path.write_text(text)
        with pytest.raises(UsageError):
            load_keys(ServeOptions(api_key_file=str(path)))
        with pytest.raises(UsageError, match="No such file"):
            load_keys(ServeOptions(api_key_file=str(tmp_path / "absent")))

    def test_requests(self, live: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        from starlette.requests import Request

        keys = Keys(["a" * 32, "b" * 32])

        def owner(path: str, header: bytes = b"") -> str:
            headers = [(b"authorization", header)] if header else []
            scope = {"type": "http", "path": path, "headers": headers, "query_string": b"",
                     "server": ("localhost", 80), "scheme": "http"}  # fmt: skip
            return keys.owner(Request(scope))

        assert owner("/healthz") == ""
        assert owner("/v1/models", b"Bearer " + b"a" * 32) != owner("/x", b"bearer " + b"b" * 32)
        for wrong in (b"", b"Bearer", b"Bearer x", b"Basic " + b"a" * 32, b"Bearer " + b"a" * 31):
            with pytest.raises(Refused) as refused:
                owner("/v1/models", wrong)
            assert refused.value.status == 401


def test_a_broken_model_is_told(tmp_path: Path) -> None:
    server = Server(ModelOptions(model=str(tmp_path)), ServeOptions(readers=1))
    with pytest.raises(SpeechMetaError):
        server.start()
    assert server.served.service.is_broken
    assert not server.served.service.ready


def test_a_default_that_the_model_does_not_give_is_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = FakeEngine()
    monkeypatch.setattr(engine, "fields", ("SpeechActivity", "Transcript"))
    server = Server(
        Analyzer.from_engine(engine), ServeOptions(readers=1), CallOptions(fields=("Gender",))
    )
    with pytest.raises(UsageError, match="does not give Gender"):
        server.start()


def test_the_log_says_nothing_private() -> None:
    with pytest.raises(OSError, match="secret") as raised:
        open("/home/caller/secret.wav")  # noqa: SIM115
    error = raised.value
    assert place_of(error).startswith(f"{__name__}:")
    trace = (OSError, error, error.__traceback__)
    record = logging.LogRecord("speechmeta.server", 20, "x", 1, "request", None, trace)
    record.__dict__.update(status=500, secret="secret.wav", seconds=0.25)
    line = json.loads(_Line(as_json=True).format(record))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO", "event": "request", "status": 500, "seconds": 0.25, "kind": "OSError"
    }  # fmt: skip
    foreign = logging.LogRecord("uvicorn.error", 40, "x", 1, "GET /secret.wav", None, None)
    assert "secret" not in _Line(as_json=False).format(foreign)


def test_statuses() -> None:
    assert status_of(Busy(3)) == 429
    assert status_of(MissingExtraError("x")) == 400
    assert status_of(SpeechMetaError("x")) == 500


@pytest.mark.parametrize(
    "options",
    [
        {"webhook": ("ftp://x",)},
        {"webhook": ("https://a@x",)},
        {"webhook": ("https://x/path",)},
        {"port": 70000},
        {"max_queue": 0},
    ],
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ServeOptions(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"root": ("absent",)}, "is not a folder"),
        ({"webhook": ("https://x",)}, "add --state DIR"),
        ({"webhook": ("https://x",), "state": "s"}, "add --webhook-secret-file"),
        ({"webhook_secret_file": "s"}, "add --webhook ORIGIN"),
    ],
)
def test_options_that_contradict(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Server(ModelOptions(), ServeOptions(**options))
