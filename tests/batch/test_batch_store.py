"""Folder runs into a database: every result once, none lost, whatever the database does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from batch_fakes import fake_call
from batch_folder import make_calls, results, run
from postgres_server import ESCAPED, PASSWORD, Cluster

from speechmeta.batch import storing
from speechmeta.batch.erasure import erase, erase_stored
from speechmeta.batch.journal import STATE_FOLDER, Journal
from speechmeta.batch.repair import repair_journal
from speechmeta.batch.summary import summary_of
from speechmeta.errors import StoreError, UsageError

pytest.importorskip("sqlalchemy", reason="the extra `store` is not installed")
pytest.importorskip("duckdb_engine", reason="the extra `store` is not installed")

from speechmeta.store.sink import Sink

pytestmark = pytest.mark.slow

RunCli = Callable[..., Any]
DAY = 86_400.0


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"duckdb:///{tmp_path}/calls.duckdb"


def held(url: str) -> dict[str, tuple[str, int]]:
    """Digest to path and number of turns of all calls."""
    import sqlalchemy

    query = (
        "SELECT calls.digest, path, count(turn) FROM calls LEFT JOIN turns"
        " ON calls.digest = turns.digest GROUP BY 1, 2"
    )
    with Sink(url) as sink, sink._engine.connect() as connection:
        return {row[0]: (row[1], row[2]) for row in connection.execute(sqlalchemy.text(query))}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Broken:
    """Makes a database that does not take the calls whose path ends so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ending: str, error: BaseException) -> None:
        write = Sink.write

        def refuses(sink: Sink, digest: str, data: Any, analysed: float | None = None) -> None:
            if data["audio"]["path"].endswith(ending):
                raise error
            write(sink, digest, data, analysed)

        monkeypatch.setattr(Sink, "write", refuses)


def test_every_call_is_there_once(tmp_path: Path, url: str) -> None:
    calls, out = make_calls(tmp_path), tmp_path / "out"
    (calls / "bad.wav").write_bytes(b"RIFF no audio any more")
    fake_call(calls / "copy of c.wav", [100, 200, 300], value=3.0)
    found = run(calls, out, sink=url)
    assert (found.counts.done, found.counts.failed, found.unstored) == (4, 1, 0)
    stored = held(url)
    # A copy is the same recording; what failed is none.
    assert len(stored) == 3
    assert stored[digest(calls / "a" / "call.wav")] == (str(calls / "a" / "call.wav"), 1)
    assert stored[digest(calls / "c.wav")][1] == 3
    run(calls, out, sink=url, overwrite=True)
    run(calls, tmp_path / "other", sink=url)
    assert held(url).keys() == stored.keys()
    assert not [line for line in results(out) if "failures" in line]


def test_a_run_without_a_database_is_caught_up_with(tmp_path: Path, url: str) -> None:
    calls, out = make_calls(tmp_path), tmp_path / "out"
    run(calls, out)
    before = (out / "results.jsonl").read_text()
    log = tmp_path / "log"
    assert run(calls, out, sink=url, resume=True).unstored == 0
    assert not log.exists(), "nothing is analysed again"
    assert len(held(url)) == 3
    assert (out / "results.jsonl").read_text() == before
    # And another database, too.
    other = f"duckdb:///{tmp_path}/other.duckdb"
    run(calls, out, sink=other, resume=True)
    assert held(other) == held(url)


def test_a_recording_that_is_gone_cannot_be_known(tmp_path: Path, url: str) -> None:
    calls, out = make_calls(tmp_path), tmp_path / "out"
    run(calls, out)
    (calls / "c.wav").unlink()
    assert run(calls, out, sink=url, resume=True).unstored == 1
    (line,) = [line for line in results(out) if "failures" in line]
    assert "cannot read" in line["failures"][0]["message"]


def test_what_the_database_refuses_is_noted_and_tried_again(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, out = make_calls(tmp_path), tmp_path / "out"
    told: list[str] = []
    Broken(monkeypatch, "a/call.wav", StoreError("the database is tired", "let it sleep"))
    found = run(calls, out, sink=url, progress=lambda now: told.append(now.error))
    assert (found.counts.done, found.unstored) == (3, 1)
    assert "no sink: the database is tired" in told
    assert len(held(url)) == 2
    lines = results(out)
    assert len(lines) == 3
    assert lines[0]["turns"][0]["Transcript"]
    assert lines[0]["failures"] == [
        {"part": "sink", "message": "the database is tired", "hint": "let it sleep"}
    ]
    assert summary_of(out).as_json()["failures"] == {"no sink": 1}
    monkeypatch.undo()
    found = run(calls, out, sink=url, resume=True)
    assert (found.audio_seconds, found.unstored) == (0.0, 0)
    assert len(held(url)) == 3
    assert not [line for line in results(out) if "failures" in line]


def test_a_run_that_dies_between_journal_and_database(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, out = make_calls(tmp_path), tmp_path / "out"
    Broken(monkeypatch, "c.wav", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(calls, out, sink=url)
    monkeypatch.undo()
    run(calls, out, sink=url, resume=True)
    assert len(held(url)) == 3
    assert len(results(out)) == 3


def test_a_database_that_is_not_there_is_told_first(tmp_path: Path) -> None:
    calls = make_calls(tmp_path)
    with pytest.raises(StoreError, match="No such file"):
        run(calls, tmp_path / "out", sink=f"duckdb:///{tmp_path}/absent/x.duckdb")
    with pytest.raises(UsageError, match="no URL"):
        run(calls, tmp_path / "out", sink="x")
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_a_repaired_journal_stores_all_of_it_again(tmp_path: Path, url: str) -> None:
    calls, out = make_calls(tmp_path), tmp_path / "out"
    run(calls, out, sink=url)
    repair_journal(out)
    with Journal(out) as journal:
        assert journal.places() == []
    assert run(calls, out, sink=url, resume=True).unstored == 0
    assert len(held(url)) == 3


def test_a_server_that_goes_away_for_a_while(
    tmp_path: Path, postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.make_place("away")
    calls, out = make_calls(tmp_path), tmp_path / "out"
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if seconds:
            postgres.ctl("start")

    write = Sink.write

    def stopped(sink: Sink, *arguments: Any) -> None:
        if not pauses and not sink.is_away:
            postgres.ctl("stop", "-m", "immediate")
        write(sink, *arguments)

    monkeypatch.setattr(Sink, "write", stopped)
    monkeypatch.setattr(storing, "time", SimpleNamespace(sleep=pause))
    found = run(calls, out, sink=url)
    assert pauses == [0.0, 2.0]
    assert found.unstored == 0
    assert len(held(url)) == 3


class TestErase:
    def test_from_the_folder_and_the_database(self, tmp_path: Path, url: str) -> None:
        calls, out = make_calls(tmp_path), tmp_path / "out"
        run(calls, out, sink=url)
        told = erase(out, 0.0, dry_run=True)
        assert {call.stored for call in told.calls} == {url}
        assert len(held(url)) == 3
        with Journal(out) as journal:
            journal.forget(next(journal.finished_before(1e12)).id)
        assert len(erase(out, 0.0).calls) == 2
        stored = held(url)
        assert [path for path, _ in stored.values()] == [str(calls / "a" / "call.wav")]
        assert results(out) == []

    def test_what_was_analysed_again_since_stays(self, tmp_path: Path, url: str) -> None:
        calls, out = make_calls(tmp_path), tmp_path / "out"
        run(calls, out, sink=url)
        with Sink(url) as sink:
            (first, *_) = sink.calls(1e12)
            sink.write(first.digest, results(out)[0], analysed=2e9)
        erase(out, 0.0)
        assert list(held(url)) == [first.digest]

    def test_a_database_that_is_gone(self, tmp_path: Path, url: str) -> None:
        calls, out = make_calls(tmp_path), tmp_path / "out"
        run(calls, out, sink=url)
        moved = tmp_path / "moved.duckdb"
        (tmp_path / "calls.duckdb").rename(moved)
        with pytest.raises(UsageError, match="there is no"):
            erase(out, 0.0)
        assert len(results(out)) == 3
        assert not (tmp_path / "calls.duckdb").exists()
        assert len(erase(out, 0.0, sink=f"duckdb:///{moved}").calls) == 3
        assert held(f"duckdb:///{moved}") == {}
        run(calls, out, sink=url, resume=True)
        (tmp_path / "calls.duckdb").unlink()
        assert len(erase(out, 0.0, keep_stored=True).calls) == 3

    def test_from_the_database_alone(self, tmp_path: Path, url: str) -> None:
        calls, out = make_calls(tmp_path), tmp_path / "out"
        run(calls, out, sink=url)
        assert erase_stored(url, DAY).kept == 3
        assert len(erase_stored(url, 0.0, dry_run=True).calls) == 3
        found = erase_stored(url, 0.0)
        assert (len(found.calls), found.kept) == (3, 0)
        assert held(url) == {}
        assert len(results(out)) == 3


class TestCommand:
    def test_a_password_is_nowhere(
        self, tmp_path: Path, postgres: Cluster, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = postgres.make_place("hidden")
        calls, out = make_calls(tmp_path), tmp_path / "out"
        run(calls, out, sink=url)
        for path in out.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert PASSWORD.encode() not in data
                assert ESCAPED.encode() not in data
        refused = run_cli("erase", out, "--older-than", "0d")
        assert refused.code == 2
        assert "speech:***@" in refused.stderr
        assert "--keep-stored" in refused.stderr
        monkeypatch.setenv("SPEECHMETA_SINK", url)
        done = run_cli("erase", out, "--older-than", "0d", "--json")
        assert done.code == 0
        assert {call["stored"].count("***") for call in json.loads(done.stdout)["erased"]} == {1}
        for text in (done.stdout, done.stderr, refused.stderr):
            assert PASSWORD not in text
            assert ESCAPED not in text
        assert held(url) == {}
        wrong = run_cli("erase", "--older-than", "0d", "--sink", url.replace(ESCAPED, "hunter2"))
        assert (wrong.code, "hunter2" in wrong.stderr) == (1, False)

    def test_what_is_missing_is_told(self, tmp_path: Path, run_cli: RunCli) -> None:
        for arguments, text in (
            (["erase", "--older-than", "1d"], "give the -o folder"),
            (["erase", tmp_path], "--older-than"),
            (["erase", "--older-than", "1d", "--sink", "duckdb:///absent.duckdb"], "there is no"),
            (["batch", tmp_path, "-o", tmp_path / "out", "--sink", "mysql://a:b@c/d"], "'mysql'"),
        ):
            result = run_cli(*arguments)
            assert (result.code, result.stderr.count("\n")) == (2, 1), result.stderr
            assert text in result.stderr

    def test_a_config_file_may_be_shared_with_other_commands(
        self, tmp_path: Path, url: str, run_cli: RunCli
    ) -> None:
        config = tmp_path / "all.toml"
        config.write_text(f'model = "m"\nport = 1\nsink = "{url}"\n[turns]\nmin_turn_seconds = 1\n')
        with Sink(url):
            pass
        result = run_cli("erase", "--older-than", "1d", "--config", config)
        assert (result.code, result.stdout) == (0, "erased 0 results; 0 are kept\n")
        config.write_text('sinc = "x"\n')
        result = run_cli("erase", "--older-than", "1d", "--config", config)
        assert (result.code, "did you mean 'sink'" in result.stderr) == (2, True)

    def test_erase_says_what_went(self, tmp_path: Path, url: str, run_cli: RunCli) -> None:
        calls, out = make_calls(tmp_path), tmp_path / "out"
        run(calls, out, sink=url)
        result = run_cli("erase", out, "--older-than", "0d")
        assert result.stdout.count(f"also from {url}") == 3
        assert (out / STATE_FOLDER).exists()
