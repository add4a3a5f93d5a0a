"""Retention: `erase` removes old results with every trace, says so, and touches nothing else."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from batch_folder import make_calls, results, run

from speechmeta.batch.erasure import erase, seconds_of
from speechmeta.batch.journal import STATE_FOLDER, Journal, journal_path, run_lock
from speechmeta.batch.repair import repair_journal
from speechmeta.batch.summary import summary_of
from speechmeta.errors import OutputError, UsageError

pytestmark = pytest.mark.slow

RunCli = Callable[..., Any]
DAY = 86_400.0
SECRET = b"300 of 1.00"
"""What the fake model says of the call in folder a."""


def set_age(out: Path, path: bytes, days: float) -> None:
    with closing(sqlite3.connect(journal_path(out))) as database, database:
        at = time.time() - days * DAY
        database.execute("UPDATE files SET finished = ? WHERE path = ?", (at, path))


def holds(folder: Path, text: bytes) -> list[str]:
    """The files below a folder that hold a text."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in paths if text in path.read_bytes())


@pytest.fixture
def done(tmp_path: Path) -> tuple[Path, Path]:
    """Three calls, one of them broken, and their results; a/call.wav is 100 days old."""
    calls, out = make_calls(tmp_path), tmp_path / "out"
    (calls / "c.wav").write_bytes(b"RIFF no audio any more")
    run(calls, out, formats=("json", "srt"))
    set_age(out, b"a/call.wav", 100)
    set_age(out, b"c.wav", 91)
    return calls, out


def test_old_results_go_with_every_trace(done: tuple[Path, Path]) -> None:
    calls, out = done
    assert {"results.jsonl", "calls/a/call.wav.json"} <= set(holds(out, SECRET))
    told = erase(out, 95 * DAY, dry_run=True)
    assert [call.path for call in told.calls] == ["a/call.wav"]
    assert len(results(out)) == 3
    found = erase(out, 95 * DAY)
    assert found.calls == told.calls
    assert (found.kept, told.kept) == (2, 2)
    assert found.calls[0].files == ("calls/a/call.wav.json", "calls/a/call.wav.srt")
    assert found.calls[0].state == "done"
    assert holds(out, SECRET) == []
    assert not (out / "calls" / "a").exists()
    assert len(results(out)) == 2
    assert summary_of(out).failed == 1
    # Failures name recordings, so they go as well.
    assert [call.state for call in erase(out, 90 * DAY).calls] == ["failed"]
    assert erase(out, 90 * DAY).calls == []
    assert (calls / "a" / "call.wav").exists()
    # What is still there may be analysed again.
    assert run(calls, out, formats=("json", "srt"), resume=True).counts.total == 3
    assert erase(out, 0.0).kept == 0
    assert results(out) == []
    assert not list((out / "calls").rglob("*"))


def test_leftovers_go_too(done: tuple[Path, Path]) -> None:
    _, out = done
    state = out / STATE_FOLDER
    (state / "spill-x").mkdir()
    (state / "spill-x" / "turn").write_bytes(b"sound")
    (out / ".speechmeta-0.tmp").write_bytes(SECRET)
    repair_journal(out)
    assert holds(state, SECRET) == ["journal-damaged-1.sqlite", "journal.sqlite"]
    # A repair does not make results younger, and its copy of the old journal goes with them.
    found = erase(out, 95 * DAY)
    assert [call.path for call in found.calls] == ["a/call.wav"]
    leftovers = [f"{STATE_FOLDER}/spill-x", f"{STATE_FOLDER}/journal-damaged-1.sqlite"]
    assert found.leftovers == leftovers
    assert holds(out, SECRET) == []
    assert not (state / "spill-x").exists()


def test_an_erasure_that_was_killed_is_finished_by_the_next(done: tuple[Path, Path]) -> None:
    _, out = done
    with Journal(out) as journal:
        journal.forget(next(journal.finished_before(time.time() - 95 * DAY)).id)
    assert "results.jsonl" in holds(out, SECRET)
    assert erase(out, 95 * DAY).calls == []
    assert "results.jsonl" not in holds(out, SECRET)


def test_a_table_is_written_anew(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    calls, out = make_calls(tmp_path), tmp_path / "out"
    run(calls, out, parquet=True, report=True, formats=("html",))
    assert "index.html" in holds(out, SECRET)
    set_age(out, b"a/call.wav", 100)
    erase(out, 95 * DAY)
    assert holds(out, SECRET) == []
    assert parquet.read_table(out / "calls.parquet").num_rows == 2
    said = parquet.read_table(out / "turns.parquet")["Transcript"].to_pylist()
    assert len(said) == 5
    assert SECRET.decode() not in " ".join(said)


def test_a_journal_of_an_earlier_version_takes_the_time_of_its_results(
    done: tuple[Path, Path],
) -> None:
    _, out = done
    with closing(sqlite3.connect(journal_path(out))) as database, database:
        database.execute("ALTER TABLE files DROP COLUMN finished")
    assert erase(out, DAY).kept == 3
    old = time.time() - 2 * DAY
    with closing(sqlite3.connect(journal_path(out))) as database, database:
        database.execute("ALTER TABLE files DROP COLUMN finished")

    os.utime(out / "results.jsonl", (old, old))
    assert len(erase(out, DAY).calls) == 3


def test_links_are_not_followed(done: tuple[Path, Path], tmp_path: Path) -> None:

    _, out = done
    away = tmp_path / "away"
    (out / "calls" / "a").rename(away)
    (out / "calls" / "a").symlink_to(away)
    with pytest.raises(OutputError, match="a link leads elsewhere"):
        erase(out, 95 * DAY)
    assert len(list(away.iterdir())) == 2


def test_ages() -> None:
    assert [seconds_of(age) for age in ("12h", "90d", " 2W ", "0d")] == [
        43200.0, 90 * DAY, 14 * DAY, 0.0,
    ]  # fmt: skip
    for age in ("", "90", "d", "-1d", "1.5d", "3m", "90 days", "1e3d"):
        with pytest.raises(UsageError, match="is not an age"):
            seconds_of(age)


def test_on_the_command_line(run_cli: RunCli, done: tuple[Path, Path], tmp_path: Path) -> None:
    calls, out = done
    result = run_cli("erase", out, "--older-than", "95d", "--dry-run")
    assert result.code == 0
    assert "would erase a/call.wav, done, analysed 20" in result.stdout
    assert len(results(out)) == 3
    result = run_cli("erase", out, "--older-than", "95d", "--json")
    document = json.loads(result.stdout)
    assert [call["path"] for call in document["erased"]] == ["a/call.wav"]
    assert document["kept"] == 2
    assert result.stdout.count("\n") == 1
    with run_lock(out):
        busy = run_cli("erase", out, "--older-than", "1d")
    assert "another run is writing" in busy.stderr
    for wrong in (
        ["erase", calls, "--older-than", "1d"],
        ["erase", out, "--older-than", "soon"],
        ["erase", out],
        ["erase", tmp_path / "absent", "--older-than", "1d"],
    ):
        result = run_cli(*wrong)
        assert (result.code, result.stderr.count("\n")) == (2, 1), wrong
        assert result.stdout == ""
