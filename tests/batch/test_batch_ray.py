"""Folder runs on a local Ray of two workers: the same records, whatever dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_fakes import FakeJob, FakeSource, fake_call
from ray_cluster import cluster as ray_cluster

from speechmeta.batch.local import EngineOptions
from speechmeta.batch.ray import _without_notes_of_the_logger
from speechmeta.batch.runner import FolderOptions, FolderResult, run_folder
from speechmeta.errors import ModelError

pytestmark = [
    pytest.mark.timeout(280),
    # Ray's own code warns of its own plans.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster() as ray:
        yield ray


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """60 calls, one of which crashes its process, one of which is broken."""
    root = tmp_path / "calls"
    for number in range(60):
        value = 1000.0 + number
        fake_call(root / f"{number % 3}" / f"{number:02d}.wav", [100 + number, 300], value=value)
    fake_call(root / "crash.wav", do="crash")
    (root / "broken.wav").write_bytes(b"")
    return root


def run(root: Path, out: Path, engine: str, source: FakeSource, **more: Any) -> FolderResult:
    use = EngineOptions(workers=1, batch_size=4, actors=2)
    options = FolderOptions(engine=engine, use=use, formats=("json",), **more)  # type: ignore[arg-type]
    return run_folder(root, out, FakeJob(), source, options)


def test_the_same_records_as_the_local_engine(cluster: Any, calls: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    run(calls, tmp_path / "local", "local", FakeSource())
    result = run(calls, tmp_path / "ray", "ray", FakeSource(log, delay=0.05, together=2))
    assert (result.counts.done, result.counts.failed) == (60, 2)
    expected = (tmp_path / "local" / "results.jsonl").read_bytes()
    assert (tmp_path / "ray" / "results.jsonl").read_bytes() == expected
    assert len(list((tmp_path / "ray" / "calls").rglob("*.json"))) == 60
    processes = {line.partition(":")[0] for line in log.read_text().splitlines()}
    assert len(processes) == 2
    assert str(os.getpid()) not in processes


def test_what_rays_logger_says_of_itself_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with _without_notes_of_the_logger():
        os.write(2, b"[2026-11-29 I 1 1] logging.cc:303: Set ray log level from environment\n")
        os.write(2, b"something else\n")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err.splitlines() == ["something else", "afterwards"]


def test_one_worker_killed_in_the_middle(cluster: Any, calls: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    run(calls, tmp_path / "local", "local", FakeSource())
    killed: list[int] = []

    def kill_one() -> None:
        while not killed:
            time.sleep(0.02)
            lines = log.read_text().splitlines() if log.exists() else []
            if len(lines) >= 6:
                pid = int(lines[-1].partition(":")[0])
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    result = run(calls, tmp_path / "ray", "ray", FakeSource(log, delay=0.1))
    killer.join(timeout=5)
    assert killed
    assert result.counts.total == 62
    expected = (tmp_path / "local" / "results.jsonl").read_bytes()
    assert (tmp_path / "ray" / "results.jsonl").read_bytes() == expected
    # Others went on after the kill.
    lines = [line.partition(":")[0] for line in log.read_text().splitlines()]
    last = max(index for index, pid in enumerate(lines) if pid == str(killed[0]))
    assert len(set(lines[last + 1 :])) >= 1


def test_a_run_goes_from_one_engine_to_the_other(cluster: Any, calls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(calls, out, "local", FakeSource())
    fake_call(calls / "new.wav", [100])
    log = tmp_path / "log"
    result = run(calls, out, "ray", FakeSource(log), resume=True)
    assert result.counts.done == 61
    assert log.read_text().endswith(": 100\n")


def test_a_model_that_cannot_be_loaded_ends_the_run(
    cluster: Any, calls: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no such model"):
        run(calls, tmp_path / "out", "ray", FakeSource(broken=True))
