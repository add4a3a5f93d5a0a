"""Several clients at once: one that sends much holds up nobody but itself."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from fakes import FakeEngine
from serving import Running, running, tone_bytes

from speechmeta.batch import flow as flow_module
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions
from speechmeta.schema import CallReport, Turn
from speechmeta.server.keys import Keys
from speechmeta.server.live_hall import Hall
from speechmeta.server.metrics import Metrics
from speechmeta.server.options import ServeOptions
from speechmeta.server.problems import Refused
from speechmeta.server.service import Service

pytestmark = pytest.mark.slow

MANY, ONE = "127.0.0.2", "127.0.0.1"


@pytest.fixture(scope="module")
def live() -> Iterator[Running]:
    with socket.socket() as trial:
        try:
            trial.bind((MANY, 0))
        except OSError:
            pytest.skip("this system has one address of its own only")
    with running(max_queue=4) as found:
        yield found


def post(live: Running, address: str, seconds: float) -> httpx2.Response:
    transport = httpx2.HTTPTransport(local_address=address)
    with live.client(transport=transport) as http:
        while True:
            files = {"file": ("a.wav", tone_bytes(seconds))}
            answer = http.post("/v1/analyze", files=files, data={"vad": "false"})
            if answer.status_code != 429:
                return answer
            time.sleep(float(answer.headers["retry-after"]))


def until(true: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def test_a_flood_holds_up_nobody_but_itself(live: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve calls of one client come first, and the queue holds four. One call of another is
    done before most of them: it gets the next place, and its turn the next batch but one."""
    service: Any = live.server.served.service
    monkeypatch.setattr(service._flow, "batch_size", 1)
    live.engine.gate.clear()
    live.engine.calls.clear()
    with ThreadPoolExecutor(13) as pool:
        flood = [pool.submit(post, live, MANY, 1.0) for _ in range(12)]
        until(lambda: live.server.served.admission.taken == 4)
        one = pool.submit(post, live, ONE, 2.0)
        until(lambda: len(live.server.served.admission._expected) >= 9)
        live.engine.gate.set()
        assert one.result().status_code == 200
        assert [item.result().status_code for item in flood] == [200] * 12
    lengths = [samples[0] for samples, _, _ in live.engine.calls]
    assert len(lengths) == 13
    assert lengths.index(32000) < 8


class Deaf:
    def begun(self) -> None: ...

    def turns(self, turns: Sequence[Turn]) -> None: ...

    def ended(self, outcome: CallReport | Exception) -> None: ...


class TestReaders:
    """Which call is read next, by the readers that are free."""

    @pytest.fixture
    def service(self, tmp_path: Path) -> Any:
        analyzer = Analyzer.from_engine(FakeEngine())
        service: Any = Service(analyzer, ServeOptions(readers=2), tmp_path)
        service._readers = 2
        service._task.start()
        service._ready.set()
        return service

    def submit(self, service: Any, client: str, background: bool = False) -> None:
        service.submit(
            Path("a.wav"), CallOptions(), Deaf(), in_background=background, client=client
        )
        service._hear()

    def next(self, service: Any, reading: Sequence[str], full: Sequence[str] = ()) -> str | None:
        """The client of the next call, while recordings of some are read."""
        flow = SimpleNamespace(
            preparing=len(reading),
            reading=reading.count,
            room=lambda client: 0 if client in full else 3 - len(reading),
        )
        ticket = service._next(flow)
        return None if ticket is None else ticket.client

    def test_one_client_never_has_them_all(self, service: Any) -> None:
        for _ in range(4):
            self.submit(service, "many")
        assert self.next(service, ["many"]) == "many", "while it is alone it has both"
        assert self.next(service, ["many", "many"]) is None
        self.submit(service, "one")
        assert self.next(service, ["many", "many"]) == "one", "and then there is a third"
        assert self.next(service, ["many"]) is None, "as others come too"
        assert self.next(service, []) == "many"
        assert self.next(service, ["one"]) == "many"
        service._seen["one"] -= 100.0
        assert self.next(service, ["many"]) == "many", "the other one has not come for long"

    def test_jobs_leave_a_reader_to_those_who_wait(self, service: Any) -> None:
        self.submit(service, "jobs", background=True)
        self.submit(service, "jobs", background=True)
        assert self.next(service, ["jobs"]) is None
        self.submit(service, "one")
        assert self.next(service, ["jobs"]) == "one"
        assert self.next(service, []) == "jobs"

    def test_a_client_whose_turns_fill_the_disk_waits_alone(self, service: Any) -> None:
        for client in ("long", "short"):
            self.submit(service, client)
        assert self.next(service, [], full=["long"]) == "short"
        assert self.next(service, [], full=["long"]) is None


def test_turns_that_wait_are_counted_by_client(
    live: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long call fills what may wait for the model, and a short one of another goes on."""
    monkeypatch.setattr(flow_module, "QUEUED_SECONDS", 3.0)
    service: Any = live.server.served.service
    monkeypatch.setattr(service._flow, "batch_size", 1)
    while live.engine.entered.acquire(blocking=False):
        pass
    live.engine.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        first = [pool.submit(post, live, MANY, 1.0)]
        assert live.engine.entered.acquire(timeout=90)
        first.append(pool.submit(post, live, MANY, 4.0))
        until(lambda: service.load.decoding == 2)
        third = pool.submit(post, live, MANY, 1.0)
        until(lambda: service.load.waiting == 1)
        assert service._flow.room(MANY) == 0
        one = pool.submit(post, live, ONE, 1.5)
        until(lambda: service.load.turns == 2)
        assert service.load.waiting == 1
        live.engine.gate.set()
        assert [item.result().status_code for item in (*first, third, one)] == [200] * 4


def test_shares_of_keys() -> None:
    assert Keys([]).share(16) == Keys(["a" * 16]).share(16) == 16
    assert [Keys(["a" * 16, "b" * 16]).share(most) for most in (16, 3, 1)] == [8, 2, 1]
    hall = Hall(3, 2, Metrics())
    with hall.place("a"), hall.place("a"):
        with pytest.raises(Refused, match="this key has 2 live calls"), hall.place("a"):
            pass
        with hall.place("b"), pytest.raises(Refused, match="has 3 live calls"), hall.place("c"):
            pass
    hall.close()
