"""A server that writes to a database: what it answers is there, and is answered all the same."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from postgres_server import Cluster
from serving import Running, running, tone_bytes

from speechmeta.errors import StoreError

pytest.importorskip("sqlalchemy", reason="the extra `store` is not installed")
pytest.importorskip("duckdb_engine", reason="the extra `store` is not installed")

from speechmeta.store.sink import Sink

pytestmark = pytest.mark.slow

RunCli = Callable[..., Any]


def names(sink: Sink) -> dict[str, str]:
    return {call.digest: call.path for call in sink.calls(1e12)}


def opened(live: Running) -> Sink:
    """The server's own, as a file of DuckDB has one process."""
    keeper = live.server.served.keeper
    assert keeper is not None
    return keeper._sink


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def done(http: Any, number: str) -> dict[str, Any]:
    end = time.monotonic() + 120
    while (found := http.get(f"/v1/jobs/{number}").json())["status"] not in ("done", "failed"):
        assert time.monotonic() < end
        time.sleep(0.05)
    return dict(found)


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_reports_and_jobs_are_stored(tmp_path: Path) -> None:
    one, two, three = (tone_bytes(seconds) for seconds in (1.0, 1.5, 2.0))
    url = f"duckdb:///{tmp_path}/calls.duckdb"
    with running(sink=url, state=str(tmp_path / "state")) as live, live.client() as http:
        asked = {"vad": "false"}
        answer = http.post("/v1/analyze", files={"file": ("one.wav", one)}, data=asked)
        assert "failures" not in answer.json()
        data = {**asked, "stream": "true"}
        answer = http.post("/v1/analyze", files={"file": ("two.wav", two)}, data=data)
        assert re.findall(r"event: (\w+)", answer.text) == ["turn", "report"]
        job = http.post("/v1/jobs", files={"file": ("three.wav", three)}, data=asked).json()
        done(http, job["id"])
        sink = opened(live)
        until(lambda: len(names(sink)) == 3)
        assert names(sink) == {
            digest(one): "one.wav", digest(two): "two.wav", digest(three): "three.wav"
        }  # fmt: skip
        # The same recording again is the same call.
        http.post("/v1/analyze", files={"file": ("again.wav", one)}, data=asked)
        assert names(sink)[digest(one)] == "again.wav"
        assert http.post("/v1/analyze", files={"file": ("x", b"no")}).status_code == 422
        assert sink.count() == 3


def test_a_database_that_refuses_keeps_no_answer_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = Sink.write

    def refuses(sink: Sink, *arguments: Any) -> None:
        raise StoreError("host 10.0.0.7 is tired", "x")

    monkeypatch.setattr(Sink, "write", refuses)
    monkeypatch.setattr("speechmeta.server.job_runner._SWEEP_SECONDS", 0.5)
    url = f"duckdb:///{tmp_path}/calls.duckdb"
    files = {"file": ("a.wav", tone_bytes())}
    with running(sink=url, state=str(tmp_path / "state")) as live, live.client() as http:
        logging.getLogger("speechmeta.server").propagate = True
        found = http.post("/v1/analyze", files=files, data={"vad": "false"})
        assert found.status_code == 200
        assert found.json()["turns"][0]["Transcript"] == "1.0 seconds"
        assert found.json()["failures"][0]["part"] == "sink"
        assert "10.0.0.7" not in found.text
        assert any(getattr(record, "why", "") == "host 10.0.0.7 is tired"
                   for record in caplog.records)  # fmt: skip
        assert 'speechmeta_errors_total{kind="StoreError"}' in http.get("/metrics").text
        number = http.post("/v1/jobs", files=files, data={"vad": "false"}).json()["id"]
        done(http, number)
        until(lambda: "failures" in done(http, number)["result"])
        monkeypatch.setattr(Sink, "write", write)
        until(lambda: "failures" not in done(http, number)["result"])
        assert opened(live).count() == 1


def test_what_a_killed_server_left_is_stored_by_the_next(tmp_path: Path, postgres: Cluster) -> None:
    state = str(tmp_path / "state")
    files = {"file": ("a.wav", tone_bytes())}
    url = postgres.make_place("server")
    with running(sink=url, state=state) as live, live.client() as http:
        keeper = live.server.served.keeper
        assert keeper is not None
        postgres.ctl("stop", "-m", "immediate")
        try:
            number = http.post("/v1/jobs", files=files, data={"vad": "false"}).json()["id"]
            done(http, number)
            until(lambda: "failures" in done(http, number)["result"])
        finally:
            postgres.ctl("start")
    with running(sink=url, state=state) as live, live.client() as http:
        until(lambda: opened(live).count() == 1)
        until(lambda: "failures" not in done(http, number)["result"])


def test_a_database_that_is_not_there_is_told_at_the_start(tmp_path: Path, run_cli: RunCli) -> None:
    result = run_cli("serve", "--port", "0", "--sink", f"duckdb:///{tmp_path}/absent/x.duckdb")
    assert result.code == 1
    assert "No such file" in result.stderr
    result = run_cli("serve", "--port", "0", "--sink", "postgresql://a:hunter2@127.0.0.1:1/x")
    assert result.code == 1
    assert "Connection refused" in result.stderr
    assert "hunter2" not in json.dumps([result.stdout, result.stderr])
