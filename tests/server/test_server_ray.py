"""The server on a local Ray of two replicas: one dies under load, and no request is lost."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import numpy.typing as npt
import pytest
from fakes import FakeEngine
from ray_cluster import cluster as ray_cluster
from serving import tone_bytes

from speechmeta.decoding.record import DecodedRecord
from speechmeta.errors import SpeechMetaError, UsageError
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions
from speechmeta.server.options import ServeOptions
from speechmeta.server.ray_serve import application, deployed

pytestmark = [
    pytest.mark.timeout(280),
    # Ray's own code warns of its own plans.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.slow,
]


class SlowEngine(FakeEngine):
    """Says in a file who decodes, and takes a while."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self._log = log

    def decode(
        self,
        waveforms: Sequence[npt.NDArray[np.float32]],
        fields: Sequence[str] | None = None,
        instruction: str | None = None,
        word_times: bool = False,
    ) -> list[DecodedRecord | SpeechMetaError]:
        with open(self._log, "a", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        return super().decode(waveforms, fields, instruction, word_times)


def slow_model(log: Path) -> Analyzer:
    return Analyzer.from_engine(SlowEngine(log))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address, and the file in which replicas say who they are."""
    place = tmp_path_factory.mktemp("ray")
    with ray_cluster(str(Path(__file__).parent)):
        serve: Any = pytest.importorskip(
            "ray.serve", reason="Ray Serve is not whole: pip install 'speechmeta[ray]'"
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            options = ServeOptions(
                readers=1, max_queue=8, max_upload_mb=3, request_seconds=120, drain_seconds=1
            )
            serve.run(
                deployed(partial(slow_model, place / "log"), options, CallOptions(vad=False)),
                name="test", route_prefix="/",
            )  # fmt: skip
            yield f"http://127.0.0.1:{port}", place / "log"
        finally:
            serve.shutdown()


def test_a_replica_dies_and_no_request_is_lost(served: tuple[str, Path]) -> None:
    address, log = served

    def ask(number: int) -> tuple[int, str]:
        seconds = 1.0 + number / 10
        with httpx2.Client(base_url=address, timeout=240) as http:
            while True:
                files = {"file": (f"{number}.wav", tone_bytes(seconds))}
                answer = http.post("/v1/analyze", files=files)
                if answer.status_code != 429:  # come back later
                    break
                time.sleep(min(1.0, float(answer.headers["retry-after"])))
        turns = answer.json().get("turns", [{}]) if answer.status_code == 200 else [{}]
        return answer.status_code, turns[0].get("Transcript", answer.text)

    def busy() -> list[int]:
        return [int(line) for line in log.read_text().split()] if log.exists() else []

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(24)]
        end = time.monotonic() + 200
        while len(set(busy())) < 2 or len(busy()) < 6:
            assert time.monotonic() < end, "both replicas did not come to work"
            time.sleep(0.02)
        victim = busy()[-1]
        os.kill(victim, signal.SIGKILL)
        answers = [item.result() for item in asked]
    assert answers == [(200, f"{1.0 + number / 10:.1f} seconds") for number in range(24)]
    pids = busy()
    after = pids[len(pids) - pids[::-1].index(victim) :]
    assert after, "others went on after the kill"
    assert victim not in after


def test_it_is_the_same_application(served: tuple[str, Path]) -> None:
    address, _ = served
    with httpx2.Client(base_url=address, timeout=240) as http:
        sent = {"file": ("a.wav", tone_bytes(1.5))}
        answer = http.post("/v1/audio/transcriptions", files=sent, data={"model": "whisper-1"})
        assert answer.json() == {"text": "1.5 seconds"}
        large = tone_bytes(40.0)
        assert len(large) > 1 << 20
        answer = http.post("/v1/analyze", files={"file": ("a.wav", large)})
        assert answer.json()["audio"]["duration"] == 40.0
        answer = http.post("/v1/analyze", files=sent, data={"stream": "true"})
        assert [line for line in answer.text.splitlines() if line.startswith("event")] == [
            "event: turn", "event: report"
        ]  # fmt: skip
        answer = http.post("/v1/analyze", files={"file": ("a.wav", b"no audio")})
        assert answer.status_code == 422
        assert answer.json()["hint"]
        answer = http.post("/v1/analyze", files={"file": ("a.wav", bytes(4 << 20))})
        assert answer.status_code == 413
        assert http.get("/readyz").status_code == 200
        headers = {"origin": "http://evil.example"}
        assert http.get("/v1/models", headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"state": "jobs"}, "jobs are kept by one server"),
        ({"nothing": "1"}, "there is no option nothing"),
        ({"replicas": "many"}, "replicas is 'many'"),
        ({"max_queue": "0"}, "max_queue"),
        ({"host": "0.0.0.0"}, "without API keys"),
    ],
)
def test_what_cannot_be_deployed(arguments: dict[str, str], text: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'speechmeta[ray]'")
    with pytest.raises(UsageError, match=text):
        application(arguments)
