"""Clients that mean ill: each is refused in words, bounded, and harms nobody else."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import ROOT
from fakes import FakeEngine
from serving import Running, running, tone_bytes, wav_bytes
from voices import make_call

from speechmeta.errors import SpeechMetaError, UsageError
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions
from speechmeta.server import envelope
from speechmeta.server.envelope import Envelope
from speechmeta.server.json_objects import json_object
from speechmeta.server.parameters import ENTRIES, call_options
from speechmeta.server.patience import Patience

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def adversary() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("adversary")
        sys.modules.pop("adversary", None)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("hostile")
    (place / "root").mkdir()
    (place / "root" / "tone.wav").write_bytes(tone_bytes(0.2))
    (place / "secret.wav").write_bytes(tone_bytes(0.2))
    with running(
        root=(str(place / "root"),), state=str(place / "state"), max_upload_mb=1,
        client_seconds=3.0, max_queue=4,
    ) as found:  # fmt: skip
        yield found


# Starlette leaves a file whose part never ends to the garbage collector.
@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile.Spooled:ResourceWarning")
def test_nothing_that_is_wrong_is_taken(
    live: Running, adversary: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Some 1,200 requests: a refusal in words, or no answer to what is hardly HTTP."""
    log = logging.getLogger("speechmeta.server")
    log.addHandler(caplog.handler)
    amiss = []
    try:
        for name, data in adversary.requests():
            if name == "recording: bomb":
                continue  # takes its ten seconds until it is refused; see tests/audio
            answer = adversary.answered(live.port(), data, 200)
            status = adversary.status_of(answer)
            plain = name.startswith(("http:", "path:", "method:", "query:"))
            if not (400 <= status < 500 or (plain and status == 0)):
                amiss.append((name, answer[:300]))
            elif b"application/json" in answer.lower():
                told = json.loads(answer.partition(b"\r\n\r\n")[2])
                if not told["message"] or not told["hint"] or "Traceback" in str(told):
                    amiss.append((name, answer[:300]))
            elif not plain:
                amiss.append((name, answer[:300]))
    finally:
        log.removeHandler(caplog.handler)
    faults = [record.__dict__ for record in caplog.records if record.message == "fault"]
    found = [(fault["kind"], fault["where"]) for fault in faults]
    assert (amiss, found) == ([], [])
    assert honest(live, adversary) == 200
    assert list(live.server.served.uploads.iterdir()) == []


def honest(live: Running, adversary: Any) -> int:
    form = adversary.upload(tone_bytes(0.2), more=adversary.part("vad", b"false"))
    answer = adversary.answered(live.port(), adversary.request(form, adversary.FORM))
    status: int = adversary.status_of(answer)
    return status


@pytest.mark.parametrize("value", [0, 1, 5, 1e-300, 1e308, 10**400, -1, True, "a", None])
def test_no_value_of_an_option_is_a_fault(value: Any) -> None:
    """What an option takes can be analysed with; the rest is refused."""
    made = make_call(rate=8000)
    call = wav_bytes(made.waveform[:, : 4 * made.rate], made.rate)
    analyzer = Analyzer.from_engine(FakeEngine())
    for entry in ENTRIES.values():
        # A speaker model of any name would be looked for.
        if entry.key != "speaker_model":
            with contextlib.suppress(SpeechMetaError):
                analyzer.analyze_call(call, call_options(CallOptions(), {entry.key: value}))


def test_uploads_together_are_bounded(
    live: Running, adversary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What many clients have begun to send lies on the disk: there is an end to it, and no address
    may have more than half."""
    monkeypatch.setattr(_layer(live, Patience), "_seconds", 60.0)
    monkeypatch.setattr(envelope, "_DRAIN_SECONDS", 0.1)
    size = 2**20
    head = adversary.request(b"", adversary.FORM).replace(
        b"Content-Length: 0", b"Content-Length: %d" % size
    )
    body = adversary.part("file", b"", '; filename="a.wav"')[:-2]
    data = head + body + b" " * (size - 1000)
    half = live.server.served.options.max_queue // 2
    with contextlib.ExitStack() as stack:

        def begin(address: str) -> None:
            """Sends most of a request, for as long as the stack is open."""
            before = _on_their_way(live)
            stack.enter_context(adversary.connected(live.port(), address)).sendall(data)
            _until(lambda: _on_their_way(live) >= before + size - 1000)

        def refused(address: str) -> bool:
            answer = adversary.answered(live.port(), data[:50_000], address=address)
            return adversary.status_of(answer) == 429 and b"retry-after: " in answer.lower()

        for _ in range(half):
            begin(adversary.OTHERS)
        assert refused(adversary.OTHERS)
        assert honest(live, adversary) == 200
        # What was answered may still be counted for a moment.
        _until(lambda: _on_their_way(live) < half * size)
        for _ in range(half):
            begin(adversary.OURS)
        assert refused("127.0.0.3"), "this is the most of all together"
    _until(lambda: not _on_their_way(live))
    assert honest(live, adversary) == 200


def test_an_address_has_half_of_the_connections(
    live: Running, adversary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = live.uvicorn.config
    monkeypatch.setattr(found, "limit_concurrency", 20)
    with contextlib.ExitStack() as stack:
        flood = [
            stack.enter_context(adversary.connected(live.port(), adversary.OTHERS))
            for _ in range(30)
        ]
        for connection in flood[10:]:
            with contextlib.suppress(ConnectionError):
                assert connection.recv(1) == b""
        assert honest(live, adversary) == 200
    _until(lambda: not live.uvicorn.server_state.connections)


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def test_half_closed(live: Running, adversary: Any) -> None:
    whole = adversary.request(adversary.upload(tone_bytes(0.2)), adversary.FORM)
    for data in (whole, whole[:300], whole[:50], b""):
        answer = adversary.answered(live.port(), data, half_close=True)
        assert adversary.status_of(answer) in (0, 200, 400)
    admission = live.server.served.admission
    _until(lambda: not admission.taken)
    assert honest(live, adversary) == 200


def _on_their_way(live: Running) -> int:
    """Bytes of requests that are not yet answered."""
    found: int = _layer(live, Envelope)._together.total()
    return found


def _layer(live: Running, kind: type) -> Any:
    """One of the layers around the routes."""
    layer: Any = live.server.app.middleware_stack
    while not isinstance(layer, kind):
        layer = layer._app if hasattr(layer, "_app") else layer.app
    return layer


def test_numbers_of_thousands_of_digits_are_refused_in_our_words() -> None:
    """Python's own words tell clients what its programmers may call."""
    for data in ('{"a": ' + "9" * 5000 + "}", b'{"a": [' + b"9" * 5000 + b"]}"):
        with pytest.raises(UsageError, match="thousands of digits") as refused:
            json_object(data, "the body", '{"path": "call.wav"}')
        assert "set_int" not in str(refused.value)
    with pytest.raises(UsageError, match="is no JSON: 'utf-8'"):
        json_object(b"\xff", "the body", "{}")
