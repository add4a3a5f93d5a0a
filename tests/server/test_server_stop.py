"""A server that is asked to stop, as a supervisor does it: with a signal to all its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.context import SpawnProcess
from pathlib import Path

import httpx2
import pytest
from serving import GatedEngine, tone_bytes

from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.server.options import ServeOptions
from speechmeta.server.running import address_of, listen, serve
from speechmeta.server.web import Server

pytestmark = pytest.mark.slow


def serve_until_told() -> None:
    """A whole server process; says its address and its reader's process id."""
    options = ServeOptions(port=0, readers=1, drain_seconds=60)
    server = Server(Analyzer.from_engine(GatedEngine()), options)
    server.start()
    flow = server.served.service._flow
    assert flow is not None
    (reader,) = (worker.process for worker in flow._prepare._workers)
    assert isinstance(reader, SpawnProcess)
    with listen(options) as listening:
        told = f"{address_of(listening)} {reader.pid}"
        try:
            serve(server, listening, lambda: print(told, flush=True))
        finally:
            server.close()
    sys.exit(5)


def test_a_signal_to_the_group_leaves_accepted_requests_their_time(tmp_path: Path) -> None:
    code = f"import {__name__} as tests; tests.serve_until_told()"
    log = tmp_path / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        ) as server,
    ):
        try:
            assert server.stdout is not None
            told = server.stdout.readline().split()
            assert told, log.read_text()
            address, reader = told[0], int(told[1])
            answers: list[tuple[int, str]] = []

            def ask() -> None:
                with httpx2.Client(base_url=address, timeout=120) as http:
                    answer = http.post("/v1/analyze", files={"file": ("a.wav", tone_bytes())})
                    answers.append((answer.status_code, answer.text))

            ask()  # from here on the reader has started
            # So that they are being read, and wait, when the signal comes.
            os.kill(reader, signal.SIGSTOP)
            asking = [threading.Thread(target=ask) for _ in range(3)]
            for thread in asking:
                thread.start()
            with httpx2.Client(base_url=address, timeout=120) as http:
                for stage in ('"reading"} 1.0', '"waiting"} 2.0'):
                    end = time.monotonic() + 60
                    while stage not in http.get("/metrics").text:
                        assert time.monotonic() < end, "it did not come about"
                        time.sleep(0.05)
            os.killpg(server.pid, signal.SIGTERM)
            os.kill(reader, signal.SIGCONT)
            for thread in asking:
                thread.join(120)
            assert [status for status, _ in answers] == [200] * 4, answers
            assert server.wait(60) == 5, log.read_text()
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        os.kill(reader, 0)
