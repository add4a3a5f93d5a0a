"""Folder runs with a fake model: results, batching, isolation, resume, and every fault."""

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

import pyarrow.parquet as pq
import pytest
from batch_fakes import FakeJob, FakeSource, fake_call

from speechmeta.batch.journal import STATE_FOLDER, Journal, run_lock
from speechmeta.batch.local import EngineOptions
from speechmeta.batch.runner import FolderOptions, FolderResult, Progress, output_path, run_folder
from speechmeta.batch.summary import summary_of
from speechmeta.errors import ModelError, OutputError, UsageError

TESTS = Path(__file__).parent


def run(root: Path, out: Path, **options: Any) -> FolderResult:
    """Runs with fakes; options of `EngineOptions` and `FolderOptions` by name."""
    job = options.pop("job", FakeJob())
    source = options.pop("source", FakeSource())
    progress = options.pop("progress", None)
    names = EngineOptions.__dataclass_fields__
    use = EngineOptions(**{key: options.pop(key) for key in list(options) if key in names})
    return run_folder(root, out, job, source, FolderOptions(use=use, **options), progress)


def results(out: Path) -> list[dict[str, Any]]:
    text = (out / "results.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def names(out: Path) -> list[str]:
    return [os.path.basename(line["audio"]["path"]) for line in results(out)]


def no_leftovers(out: Path) -> bool:
    spilled = list((out / STATE_FOLDER).glob("spill-*"))
    return not spilled and not list(out.rglob(".speechmeta-*.tmp"))


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Three calls in two folders, two of them of the same name."""
    root = tmp_path / "calls"
    fake_call(root / "b" / "call.wav", [400, 500], value=2.0)
    fake_call(root / "a" / "call.wav", [300], value=1.0)
    fake_call(root / "c.wav", [100, 200, 300], value=3.0)
    return root


def test_one_line_a_file_in_a_stable_order(calls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told: list[Progress] = []
    result = run(calls, out, workers=2, batch_size=4, progress=told.append)
    assert (result.counts.done, result.counts.failed, result.counts.missing) == (3, 0, 0)
    lines = results(out)
    paths = [line["audio"]["path"] for line in lines]
    assert paths == [str(calls / name) for name in ("a/call.wav", "b/call.wav", "c.wav")]
    # Every turn came back to its call, at its place.
    said = [[turn["Transcript"] for turn in line["turns"]] for line in lines]
    assert said == [
        ["300 of 1.00 to 1.00"],
        ["400 of 2.00 to 2.00", "500 of 2.01 to 2.01"],
        ["100 of 3.00 to 3.00", "200 of 3.01 to 3.01", "300 of 3.02 to 3.02"],
    ]
    assert lines[0]["model"]["name"] == "fake"
    assert told[0].total == 3
    assert (told[-1].done, told[-1].bytes_done) == (3, told[-1].bytes_total)
    assert result.audio_seconds == pytest.approx(1800 / 16000)
    assert no_leftovers(out)


def test_outputs_mirror_the_folder(calls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fake_call(calls / "a" / "call.mp3", [50])
    run(calls, out, formats=("json", "txt"), parquet=True)
    found = sorted(str(path.relative_to(out)) for path in (out / "calls").rglob("*.*"))
    stems = ["a/call.mp3", "a/call.wav", "b/call.wav", "c.wav"]
    assert found == sorted(f"calls/{stem}.{end}" for stem in stems for end in ("json", "txt"))
    table = pq.read_table(out / "turns.parquet")
    assert table.num_rows == 7
    assert set(table["path"].to_pylist()) == {str(calls / stem) for stem in stems}
    assert json.loads((out / "calls/c.wav.json").read_text()) == results(out)[-1]


def test_turns_of_many_calls_share_a_batch(tmp_path: Path) -> None:
    root, log = tmp_path / "calls", tmp_path / "log"
    for number in range(40):
        fake_call(root / f"{number:02d}.wav", [100 + number, 5000 + number])
    run(root, tmp_path / "out", source=FakeSource(log, delay=0.02), workers=2, batch_size=8)
    lines = [line.partition(": ")[2] for line in log.read_text().splitlines()]
    batches = [[int(number) for number in line.split()] for line in lines]
    assert sum(map(len, batches)) == 80
    assert max(map(len, batches)) == 8
    full = [batch for batch in batches if len(batch) == 8]
    assert len(full) >= 4
    # Short and long turns go apart, as padding would be wasted.
    assert sum(max(batch) < 2 * min(batch) for batch in full) >= len(full) - 2


@pytest.mark.parametrize("processes", [0, 2])
def test_models_in_other_processes_give_the_same(
    calls: Path, tmp_path: Path, processes: int
) -> None:
    run(calls, tmp_path / "reference")
    run(calls, tmp_path / "out", model_processes=processes, batch_size=2)
    assert results(tmp_path / "out") == results(tmp_path / "reference")


@pytest.mark.parametrize("processes", [0, 1])
def test_preparing_may_ask_the_model(tmp_path: Path, processes: int) -> None:
    root = tmp_path / "calls"
    for number in range(6):
        fake_call(root / f"{number}.wav", [100], do="ask", value=float(20 + number))
    # The time limit stands still while the model is busy with others.
    result = run(
        root,
        tmp_path / "out",
        source=FakeSource(delay=0.4),
        workers=3,
        timeout=1.0,
        model_processes=processes,
    )
    assert (result.counts.done, result.counts.failed) == (3, 3)
    for number, line in enumerate(results(tmp_path / "out")):
        if number % 2:
            assert line["error"]["message"] == "cannot answer this"
        else:
            assert line["turns"][0]["Transcript"].startswith(f"100 of {40 + 2 * number}.00")


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    (tmp_path / "calls" / "notes.txt").write_text("nothing to hear")
    result = run(tmp_path / "calls", tmp_path / "out", parquet=True)
    assert result.counts.total == 0
    assert result.found.ignored == 1
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == b""
    assert pq.read_table(tmp_path / "out" / "turns.parquet").num_rows == 0


def test_a_call_without_turns(tmp_path: Path) -> None:
    fake_call(tmp_path / "calls" / "silent.wav", [])
    run(tmp_path / "calls", tmp_path / "out")
    assert results(tmp_path / "out")[0]["turns"] == []


def test_200_unreadable_files_among_1000(tmp_path: Path) -> None:
    root = tmp_path / "calls"
    for number in range(1000):
        path = root / f"{number // 100}" / f"{number:04d}.wav"
        if number % 5 == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not audio")
        else:
            fake_call(path, [100 + number], value=1000.0 + number)
    result = run(root, tmp_path / "out", workers=2, batch_size=16)
    assert (result.counts.done, result.counts.failed) == (800, 200)
    lines = results(tmp_path / "out")
    assert len(lines) == 1000
    assert [line["audio"]["path"] for line in lines] == sorted(
        str(path) for path in root.rglob("*.wav")
    )
    for number, line in enumerate(lines):
        if number % 5 == 0:
            assert line["error"]["type"] == "AudioError"
            assert line["error"]["hint"] == "give a recording"
        else:
            assert line["turns"][0]["Transcript"].startswith(
                f"{100 + number} of {1000 + number}.00"
            )
    summary = summary_of(tmp_path / "out")
    assert (summary.files, summary.failed, summary.missing) == (800, 200, 0)
    assert summary.failures == {"AudioError": 200}


def test_files_that_crash_or_hang_the_decoder(calls: Path, tmp_path: Path) -> None:
    fake_call(calls / "crash.wav", do="crash")
    fake_call(calls / "hang.wav", do="hang")
    fake_call(calls / "bug.wav", do="bug")
    result = run(calls, tmp_path / "out", workers=2, timeout=1.5)
    assert (result.counts.done, result.counts.failed) == (3, 3)
    errors = {
        os.path.basename(line["audio"]["path"]): line["error"]
        for line in results(tmp_path / "out")
        if "error" in line
    }
    assert errors["crash.wav"]["type"] == "WorkerCrash"
    assert "SIGSEGV" in errors["crash.wav"]["message"]
    assert errors["hang.wav"]["type"] == "WorkerTimeout"
    assert "1.5 seconds" in errors["hang.wav"]["message"]
    assert errors["bug.wav"]["type"] == "KeyError"
    assert no_leftovers(tmp_path / "out")


@pytest.mark.parametrize("processes", [0, 1])
def test_a_turn_that_breaks_its_batch_costs_only_its_call(tmp_path: Path, processes: int) -> None:
    root = tmp_path / "calls"
    for number in range(6):
        fake_call(root / f"{number}.wav", [100, 110], value=666.0 if number == 2 else 1.0)
    fake_call(root / "unlucky.wav", [100], value=13.0)
    source = FakeSource(die=processes > 0)
    result = run(root, tmp_path / "out", source=source, batch_size=4, model_processes=processes)
    assert (result.counts.done, result.counts.failed) == (6 - 1, 2)
    errors = [line for line in results(tmp_path / "out") if "error" in line]
    assert [os.path.basename(line["audio"]["path"]) for line in errors] == ["2.wav", "unlucky.wav"]
    expected = "WorkerCrash" if processes else "DecodingError"
    assert [line["error"]["type"] for line in errors] == [expected, "DecodingError"]


@pytest.mark.parametrize("processes", [0, 1])
def test_a_model_that_cannot_be_loaded_ends_the_run(
    calls: Path, tmp_path: Path, processes: int
) -> None:
    with pytest.raises(ModelError, match="no such model"):
        run(
            calls,
            tmp_path / "out",
            source=FakeSource(broken=True),
            model_processes=processes,
        )
    assert no_leftovers(tmp_path / "out")
    result = run(calls, tmp_path / "out", resume=True)
    assert result.counts.done == 3


def test_a_file_that_grows_while_it_is_read(calls: Path, tmp_path: Path) -> None:
    fake_call(calls / "growing.wav", do="grow")
    result = run(calls, tmp_path / "out")
    assert result.counts.failed == 1
    error = results(tmp_path / "out")[-1]["error"]
    assert "changed while it was read" in error["message"]
    fake_call(calls / "growing.wav", [100])
    assert run(calls, tmp_path / "out", resume=True).counts.failed == 1
    again = run(calls, tmp_path / "out", resume=True, retry_failed=True)
    assert (again.counts.done, again.counts.failed) == (4, 0)


def test_an_empty_file_is_an_error_record(calls: Path, tmp_path: Path) -> None:
    (calls / "empty.wav").write_bytes(b"")
    (calls / "empty.txt").write_bytes(b"")
    run(calls, tmp_path / "out")
    failed = [line for line in results(tmp_path / "out") if "error" in line]
    assert [os.path.basename(line["audio"]["path"]) for line in failed] == ["empty.wav"]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "calls")
    try:
        fake_call(os.path.join(root, b"caf\xe9\xff.wav"), [100])
        fake_call(os.path.join(root, b"d\xe9p\xf4t", b"\n.wav"), [200])
    except OSError as error:
        pytest.skip(f"this file system takes no such names: {error}")
    with open(os.path.join(root, b"br\xf8ken.wav"), "wb") as file:
        file.write(b"broken")
    out = tmp_path / "out"
    result = run(tmp_path / "calls", out, formats=("json", "html"), parquet=True)
    assert (result.counts.done, result.counts.failed) == (2, 1)
    paths = [line["audio"]["path"] for line in results(out)]
    assert paths[1].endswith("/calls/caf\\xe9\\xff.wav")
    assert os.path.exists(os.path.join(os.fsencode(out), b"calls/caf\xe9\xff.wav.json"))
    assert pq.read_table(out / "turns.parquet").num_rows == 2


def test_links_that_go_round(calls: Path, tmp_path: Path) -> None:
    (calls / "a" / "round").symlink_to(calls)
    (calls / "self").symlink_to("self")
    (calls / "gone.wav").symlink_to("nowhere.wav")
    (calls / "other.wav").symlink_to("c.wav")
    run(calls, tmp_path / "out")
    assert names(tmp_path / "out") == ["call.wav", "call.wav", "c.wav", "gone.wav", "other.wav"]
    assert "No such file" in results(tmp_path / "out")[3]["error"]["message"]


def test_an_output_folder_below_the_recordings(calls: Path) -> None:
    fake_call(calls / "results" / "calls" / "old.wav", [100])
    (calls / "results" / "calls").rename(calls / "results" / "kept")
    run(calls, calls / "results")
    assert len(results(calls / "results")) == 3


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
    (tmp_path / STATE_FOLDER / "lock").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"cannot write .*lock"):
        run(calls, tmp_path)


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
    script.write_text(SCRIPT.format(tests=str(TESTS), root=str(root), out=str(out)))
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


def test_long_names_are_cut(tmp_path: Path) -> None:
    root, out = tmp_path / "calls", tmp_path / "out"
    for end in "ab":
        fake_call(root / f"{'n' * 250}{end}.wav"[-255:], [100])
    run(root, out, formats=("parquet",))
    assert len(list((out / "calls").iterdir())) == 2
    assert output_path(out, b"x/a.wav", ".json") == out / "calls" / "x" / "a.wav.json"


def test_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        run(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="unknown output format"):
        run(tmp_path, tmp_path / "out", formats=("doc",))
    with pytest.raises(UsageError, match="holds no folder run"):
        summary_of(tmp_path)
