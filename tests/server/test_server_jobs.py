"""Jobs: accepted for good, whatever becomes of the server, and told of when they have ended."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import ROOT
from serving import Running, running, tone_bytes

from speechmeta.batch.journal import Journal
from speechmeta.errors import OutputError, SpeechMetaError, UsageError
from speechmeta.pipeline.options import CallOptions
from speechmeta.schema import AudioInfo, CallReport, Coverage, ModelInfo
from speechmeta.server.jobs import MAX_ATTEMPTS, RECORDINGS, Asked, JobStore
from speechmeta.server.options import ServeOptions
from speechmeta.server.problems import Refused
from speechmeta.server.webhooks import Webhooks, load_webhooks
from speechmeta.settings import OptionError

pytestmark = pytest.mark.slow

SECRET = "s" * 32


def until(true: Callable[[], Any], seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)
    return found


@contextmanager
def hooks() -> Iterator[tuple[str, queue.Queue[tuple[dict[str, str], bytes]]]]:
    """A server that keeps what it is told; the first call of each job fails."""
    told: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            told.put(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def hook() -> Iterator[tuple[str, queue.Queue[tuple[dict[str, str], bytes]]]]:
    with hooks() as found:
        yield found


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, hook: tuple[str, Any]) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "secret").write_text(SECRET)
    (folder / "keys").write_text("a" * 32 + "\n" + "b" * 32)
    with running(
        state=str(folder / "state"),
        max_jobs=3,
        webhook=(hook[0],),
        webhook_secret_file=str(folder / "secret"),
        api_key_file=str(folder / "keys"),
    ) as found:
        yield found


def client(live: Running, key: str = "a") -> httpx2.Client:
    return live.client(headers={"authorization": f"Bearer {key * 32}"})


def left(http: httpx2.Client, data: bytes = b"", **asked: str) -> dict[str, Any]:
    files = {"file": ("a call.wav", data or tone_bytes())}
    answer = http.post("/v1/jobs", files=files, data={"vad": "false", **asked})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    found: dict[str, Any] = answer.json()
    return found


def ended(http: httpx2.Client, number: str) -> dict[str, Any]:
    def job() -> dict[str, Any] | None:
        found: dict[str, Any] = http.get(f"/v1/jobs/{number}").json()
        return found if found["status"] in ("done", "failed") else None

    found: dict[str, Any] = until(job)
    return found


def test_a_job_and_its_webhook(live: Running, hook: tuple[str, Any]) -> None:
    with client(live) as http:
        job = left(http, webhook=f"{hook[0]}/told?x=1")
        found = ended(http, job["id"])
    assert found["name"] == "a call.wav"
    assert found["result"]["audio"]["path"] == "a call.wav"
    assert found["result"]["turns"][0]["Transcript"] == "1.0 seconds"
    headers, body = hook[1].get(timeout=60)
    assert json.loads(body)["data"] == {"id": job["id"], "status": "done"}
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    state = Path(str(live.server.served.options.state))
    until(lambda: list((state / RECORDINGS).iterdir()) == [])


def test_what_cannot_be_analysed_fails_as_analyze_does(live: Running) -> None:
    with client(live) as http:
        found = ended(http, left(http, b"no audio")["id"])
    assert (found["status"], found["type"]) == ("failed", "AudioError")
    assert "a call.wav" in found["message"]
    assert str(live.server.served.options.state) not in json.dumps(found)


def test_jobs_are_their_owners(live: Running) -> None:
    with client(live) as http, client(live, "b") as other, live.client() as nobody:
        number = left(http)["id"]
        assert other.get(f"/v1/jobs/{number}").status_code == 404
        assert other.delete(f"/v1/jobs/{number}").status_code == 404
        assert nobody.get(f"/v1/jobs/{number}").status_code == 401
        assert nobody.get("/healthz").status_code == 200
        ended(http, number)
        assert http.delete(f"/v1/jobs/{number}").status_code == 204
        assert http.get(f"/v1/jobs/{number}").status_code == 404


def test_more_jobs_than_are_taken_on_and_one_that_is_removed(live: Running) -> None:
    live.engine.gate.clear()
    with client(live) as http, client(live, "b") as other:
        jobs = [left(http)["id"] for _ in range(2)]
        files = {"file": ("a.wav", tone_bytes())}
        refused = http.post("/v1/jobs", files=files)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "60"
        assert "of this key" in refused.json()["message"], "others have room yet"
        theirs = left(other)["id"]
        refused = other.post("/v1/jobs", files=files)
        assert refused.status_code == 429
        assert "of this key" not in refused.json()["message"]
        assert other.delete(f"/v1/jobs/{theirs}").status_code == 204
        assert http.delete(f"/v1/jobs/{jobs[1]}").status_code == 204
        live.engine.gate.set()
        assert ended(http, jobs[0])["status"] == "done"
        assert http.get(f"/v1/jobs/{jobs[1]}").status_code == 404
        metrics = http.get("/metrics").text
    assert 'speechmeta_jobs{state="queued"} 0.0' in metrics


@pytest.mark.parametrize(
    ("webhook", "status"),
    [
        ("http://127.0.0.1:1/", 403),
        ("https://evil.example/", 403),
        ("http://169.254.169.254/latest", 403),
        ("http://user@127.0.0.1/", 400),
        ("file:///etc/passwd", 400),
        ("http://[::1", 400),
    ],
)
def test_only_allowed_servers_are_told(live: Running, webhook: str, status: int) -> None:
    with client(live) as http:
        files = {"file": ("a.wav", tone_bytes())}
        answer = http.post("/v1/jobs", files=files, data={"webhook": webhook})
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("replaced", [False, True])
def test_a_state_folder_that_is_emptied_takes_no_more_jobs(tmp_path: Path, replaced: bool) -> None:
    """What is accepted into a journal that was deleted would be gone with the server."""
    state = tmp_path / "state"
    with running(state=str(state)) as live, live.client() as http:
        assert http.get("/readyz").status_code == 200
        ended(http, left(http)["id"])
        shutil.rmtree(state)
        if replaced:
            with JobStore(state):
                pass
        assert http.get("/readyz").status_code == 503
        assert http.get("/readyz").json() == {"status": "not ready"}
        refused = http.post("/v1/jobs", files={"file": ("a.wav", tone_bytes())})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "60"
        assert "folder" not in refused.text
        whole = http.post("/v1/analyze", files={"file": ("a.wav", tone_bytes())})
        assert whole.status_code == 200, "calls that are waited for need no folder"


def test_two_servers_do_not_share_a_folder(live: Running) -> None:
    with (
        pytest.raises(UsageError, match="another run is writing"),
        running(state=str(live.server.served.options.state)),
    ):
        raise AssertionError("it started")


def a_report() -> CallReport:
    return CallReport(
        audio=AudioInfo(path="x", duration=2.0, sample_rate=8000, channels=1),
        model=ModelInfo(name="fake", architecture="fake", device="cpu", dtype="float32"),
        turns=[],
        coverage=Coverage(speech_seconds=0, non_speech_seconds=2, skipped_seconds=0),
    )


class TestStore:
    def asked(self, state: Path, name: str) -> Asked:
        folder = state / RECORDINGS / name
        folder.mkdir()
        (folder / "a.wav").write_bytes(b"voice")
        options = CallOptions(roles=("a", "b")).model_dump(mode="json")
        return Asked(str(folder / "a.wav"), "a.wav", True, options)

    def test_what_was_accepted_is_there_after_a_kill(self, tmp_path: Path) -> None:
        with JobStore(tmp_path) as store:
            for name in ("one", "two", "three"):
                store.accept(name, "me", self.asked(tmp_path, name), "http://x")
            (tmp_path / RECORDINGS / "cut upload").mkdir()
            store.begun("two")
            job = store.job("one")
            assert job is not None
            store.end(job, a_report())
            # A kill between the result and the note that there is one.
            failed = store.job("three")
            assert failed is not None
            store.finish(failed.entry, "failed", "{}")
        with JobStore(tmp_path) as store:
            store.tidy()
            (job,) = store.unfinished()
            assert (job.id, job.attempts, job.status) == ("two", 1, "queued")
            assert CallOptions(**job.asked.options).roles == ("a", "b")
            assert [path.name for path in (tmp_path / RECORDINGS).iterdir()] == ["two"]
            assert {due.id for due in store.due()} == {"one", "three"}
            assert store.by_status() == {"queued": 1, "done": 1, "failed": 1}
            for due in store.due():
                store.delivered(due, 60.0 if due.id == "one" else None)
            assert store.due() == []
            assert store.remove_old(3600) == 0
            assert store.remove_old(-1) == 2
            assert store.job("one") is None
        assert (tmp_path / ".speechmeta" / "journal.sqlite").stat().st_mode & 0o77 == 0

    def test_folders_of_others(self, tmp_path: Path) -> None:
        (tmp_path / ".speechmeta").mkdir()
        with Journal(tmp_path) as journal:
            journal.agree({"folder": "/calls"})
        with pytest.raises(UsageError):
            JobStore(tmp_path)
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError):
            JobStore(tmp_path / "file" / "state")

    def test_a_job_that_takes_the_server_down_is_given_up(self, tmp_path: Path) -> None:
        state = tmp_path / "state"
        with JobStore(state) as store:
            store.accept("bad", "", self.asked(state, "bad"), None)
            for _ in range(MAX_ATTEMPTS):
                store.begun("bad")
        with running(state=str(state)) as live, live.client() as http:
            found = ended(http, "bad")
        assert "ended 5 times" in found["message"]


class TestWebhooks:
    def options(self, folder: Path, secret: str) -> ServeOptions:
        (folder / "secret").write_text(secret)
        return ServeOptions(
            state="s", webhook=("https://hooks.example",),
            webhook_secret_file=str(folder / "secret"),
        )  # fmt: skip

    def test_secrets(self, tmp_path: Path) -> None:
        # The example of https://github.com/standard-webhooks/standard-webhooks.
        text = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        webhooks = load_webhooks(self.options(tmp_path, text))
        signature = webhooks.signature(
            "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}'
        )
        assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        for bad in ("", "short", "a" * 20 + "\n" + "b" * 20, "whsec_" + "!" * 20):
            with pytest.raises(UsageError):
                load_webhooks(self.options(tmp_path, bad))

    def test_addresses(self) -> None:
        webhooks = Webhooks(("https://hooks.example", "http://other.example:8080"))
        for good in (
            "https://hooks.example/a?b=c",
            "https://HOOKS.example:443/",
            "http://other.example:8080/x",
        ):
            assert webhooks.checked(good) == good
        for bad in (
            "http://hooks.example/",
            "https://hooks.example:444/",
            "https://hooks.example.evil.example/",
            "http://other.example/",
        ):
            with pytest.raises(Refused):
                webhooks.checked(bad)
        with pytest.raises(OptionError):
            webhooks.checked("https://hooks.example@evil.example/")


@contextmanager
def process(state: Path, log: Path, *more: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The real command with the bundled model; its address."""
    command = [sys.executable, "-m", "speechmeta.cli", "serve", "--port", "0", "--readers", "1",
               "--compute-type", "float32", "--state", str(state), *more]  # fmt: skip
    with log.open("wb") as err:
        child = subprocess.Popen(
            command,
            stderr=err,
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            start_new_session=True,
        )
        try:

            def address() -> str | None:
                assert child.poll() is None, log.read_text()
                found = log.read_text().partition("listening on ")[2].split()
                return found[0] if found else None

            yield child, until(address, 800)
        finally:
            child.kill()
            child.wait()


@pytest.mark.timeout(2400)  # two processes load torch and the model
def test_kill_9_and_start_again(bundled_dir: Path, tmp_path: Path) -> None:
    call = ROOT / "examples" / "call.wav"
    state = tmp_path / "state"
    with process(state, tmp_path / "first.log") as (child, address):
        with httpx2.Client(base_url=address, timeout=120) as http:
            files = [("file", ("a call.wav", call.read_bytes()))]
            jobs = [http.post("/v1/jobs", files=files).json()["id"] for _ in range(2)]
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert len(list((state / RECORDINGS).iterdir())) == 2
    log = tmp_path / "second.log"
    with process(state, log, "--log-format", "json") as (child, address):
        with httpx2.Client(base_url=address, timeout=240) as http:
            found = [ended(http, number) for number in jobs]
            assert [job["status"] for job in found] == ["done"] * 2
            text = " ".join(turn["Transcript"] for turn in found[0]["result"]["turns"])
            assert "table" in text
            assert found[0]["result"] == found[1]["result"]
            # A request that is on its way when the server is asked to stop.
            answers: list[int] = []

            def ask() -> None:
                sent = {"file": ("private-name.wav", call.read_bytes())}
                answers.append(http.post("/v1/analyze", files=sent).status_code)

            asking = threading.Thread(target=ask)
            asking.start()
            until(lambda: 'speechmeta_queue{stage="reading"} 1.0' in http.get("/metrics").text
                  or answers)  # fmt: skip
            os.killpg(child.pid, signal.SIGTERM)
            asking.join()
            assert answers == [200]
        assert child.wait(60) == 0
    written = log.read_text()
    assert "private-name" not in written
    assert "table" not in written
    assert all(json.loads(line)["event"] for line in written.splitlines()[1:])
    assert list((state / RECORDINGS).iterdir()) == []


def test_serve_refuses_on_one_line(tmp_path: Path, run_cli: Any) -> None:
    for arguments in (["--host", "0.0.0.0"], ["--root", "absent"], ["--port", "80000"]):
        result = run_cli("serve", *arguments)
        assert result.code == 2
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert issubclass(UsageError, SpeechMetaError)
