"""Runs over a folder that follow one another, are killed, or find the disk full."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_fakes import FakeSource, fake_call
from batch_folder import make_calls, no_leftovers, results, run

from speechmeta.batch.journal import STATE_FOLDER, Journal, run_lock
from speechmeta.batch.runner import Progress
from speechmeta.errors import ModelError, OutputError, UsageError

pytestmark = pytest.mark.slow


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return make_calls(tmp_path)


def test_two_runs_on_the_same_output(calls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / STATE_FOLDER).mkdir(parents=True)
    with run_lock(out):
        with pytest.raises(UsageError, match=f"another run .*process {os.getpid()}"):
            run(calls, out)
        with pytest.raises(UsageError, match="another run"):
            run(calls, out, resume=True, overwrite=True)
    assert run(calls, out).counts.done == 3


def test_results_are_not_overwritten_in_silence(calls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(calls, out)
    before = (out / "results.jsonl").read_bytes()
    with pytest.raises(UsageError, match="--resume goes on"):
        run(calls, out)
    fake_call(calls / "new.wav", [100])
    run(calls, out, overwrite=True)
    assert (out / "results.jsonl").read_bytes() != before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "results.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="another run"):
        run(calls, foreign, resume=True)
    assert (foreign / "results.jsonl").read_text() == "mine"


def test_overwriting_removes_what_the_run_before_wrote(calls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(calls, out, formats=("json", "srt"))
    mine = out / "calls" / "notes.json"
    mine.write_text("mine")
    (calls / "c.wav").write_bytes(b"no audio any more")
    run(calls, out, formats=("json",), overwrite=True)
    written = sorted(str(path.relative_to(out)) for path in (out / "calls").rglob("*.*"))
    # Nothing is left of the call that fails now, nor of the format that was not asked for.
    assert written == ["calls/a/call.wav.json", "calls/b/call.wav.json", "calls/notes.json"]
    assert mine.read_text() == "mine"


def test_a_run_that_failed_at_its_start_binds_nobody(calls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for resume in (False, True):
        with pytest.raises(ModelError, match="no such model"):
            run(calls, out, source=FakeSource(broken=True), settings={"model": "typo"})
        assert not (out / "results.jsonl").exists()
        result = run(calls, out, resume=resume, settings={"model": "right"})
        assert result.counts.done == 3
        with pytest.raises(UsageError, match="--resume goes on"):
            run(calls, out, settings={"model": "right"})
        out = tmp_path / "again"


def test_a_lock_that_cannot_be_made(calls: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / STATE_FOLDER / "lock").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"cannot write .*lock"):
        run(calls, tmp_path / "out")


def test_a_disk_without_locks(calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutputError, match=r"cannot write .*lock"):
        run(calls, tmp_path / "out")


def test_a_run_resumes_with_its_own_settings_only(calls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(calls, out, settings={"model": "one"})
    with pytest.raises(UsageError, match=r'model was "one" .* and is "two" now'):
        run(calls, out, resume=True, settings={"model": "two"})
    with pytest.raises(UsageError, match="folder was"):
        run(calls / "a", out, resume=True, settings={"model": "one"})


def test_resume_does_exactly_what_is_missing(calls: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    run(calls, out)
    whole = (out / "results.jsonl").read_bytes()
    fake_call(calls / "new.wav", [777])
    told: list[Progress] = []
    run(calls, out, resume=True, source=FakeSource(log), progress=told.append)
    assert log.read_text() == f"{os.getpid()}: 777\n"
    assert told[0].done == 3
    assert len(results(out)) == 4
    assert whole == b"".join((out / "results.jsonl").read_bytes().splitlines(True)[:3])
    # A second resume has nothing to do, and says the same.
    before = (out / "results.jsonl").read_bytes()
    run(calls, out, resume=True, source=FakeSource(broken=True))
    assert (out / "results.jsonl").read_bytes() == before


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from batch_fakes import FakeJob, FakeSource
from speechmeta.batch.local import EngineOptions
from speechmeta.batch.runner import FolderOptions, run_folder
if __name__ == "__main__":
    options = FolderOptions(
        formats=("json",), resume=True, use=EngineOptions(workers=2, batch_size=4)
    )
    run_folder({root!r}, {out!r}, FakeJob(delay=0.01), FakeSource(delay=0.01), options)
"""


def children_of(pid: int) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            yield int(folder.name)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_kill_9_and_resume(tmp_path: Path) -> None:
    root, out = tmp_path / "calls", tmp_path / "out"
    for number in range(120):
        fake_call(root / f"{number:03d}.wav", [100 + number, 300], value=1000.0 + number)
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT.format(tests=str(Path(__file__).parents[1]), root=str(root), out=str(out))
    )
    run(root, tmp_path / "reference", formats=("json",))
    kills = 0
    seen = 0
    for _ in range(20):
        process = subprocess.Popen([sys.executable, str(script)])
        # Wait until this process has finished some more files, then kill it in the middle.
        while process.poll() is None:
            done = len(list((out / "calls").glob("*.json"))) if out.exists() else 0
            if done > seen + 20:
                break
            time.sleep(0.005)
        if process.poll() is not None:
            assert process.returncode == 0
            break
        workers = list(children_of(process.pid))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        for name in (out / "calls").glob("*.json"):
            # What has its name is whole.
            json.loads(name.read_text())
        with Journal(out) as journal:
            counts = journal.counts()
            assert counts.done > seen
            assert counts.failed == 0
            seen = counts.done
        limit = time.monotonic() + 20
        while any(map(is_alive, workers)):
            assert time.monotonic() < limit, "workers outlive a killed run"
            time.sleep(0.05)
    assert kills >= 3
    expected = (tmp_path / "reference" / "results.jsonl").read_bytes()
    assert (out / "results.jsonl").read_bytes() == expected
    assert len(list((out / "calls").glob("*.json"))) == 120
    assert no_leftovers(out)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 3 MB."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(mount)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"mounting a small disk is not permitted: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "calls", small_disk / "out"
    for number in range(30):
        fake_call(root / f"{number:02d}.wav", [2000] * 30, value=1000.0 + number)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 2_600_000)
    with pytest.raises(OutputError) as caught:
        run(root, out, formats=("json", "csv"))
    assert "full" in caught.value.hint
    assert not (out / "results.jsonl").exists()
    for path in (out / "calls").rglob("*.json"):
        json.loads(path.read_text())
    # With room again, the same run goes on from where it stopped.
    filler.unlink()
    remaining = run(root, out, formats=("json", "csv"), resume=True)
    assert (remaining.counts.done, remaining.counts.failed) == (30, 0)
    assert len(results(out)) == 30


def test_a_disk_too_small_for_one_files_turns(small_disk: Path, tmp_path: Path) -> None:
    fake_call(tmp_path / "calls" / "long.wav", [2_000_000])
    with pytest.raises(OutputError, match=r"spill-.*No space left"):
        run(tmp_path / "calls", small_disk / "out")
