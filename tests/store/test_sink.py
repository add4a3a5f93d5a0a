"""Results in a database: the same of DuckDB and PostgreSQL, whole or not at all."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres_server import ESCAPED, PASSWORD, Cluster
from report_samples import empty_report, sample_report

from speechmeta.errors import MissingExtraError, SpeechMetaError, StoreError, UsageError
from speechmeta.schema import Alert, FilledForm, Word
from speechmeta.writers.structured import document

sqlalchemy = pytest.importorskip("sqlalchemy", reason="the extra `store` is not installed")
pytest.importorskip("duckdb_engine", reason="the extra `store` is not installed")

from speechmeta.store import columns, sink  # noqa: E402
from speechmeta.store.address import parsed  # noqa: E402
from speechmeta.store.sink import Sink  # noqa: E402

pytestmark = pytest.mark.slow

A, B = "a" * 64, "b" * 64


def rich_report() -> dict[str, Any]:
    """The document of a call with everything that a database holds of one."""
    report = sample_report()
    alert = Alert(rule="refund", when="words", start=4.5, end=7.5, turn=1, text="order")
    form = FilledForm(value={"reason": "late order"}, evidence={"reason": [1]})
    report = report.model_copy(update={"alerts": [alert], "call_fields": {"summary": form}})
    return document(report)


def shorter() -> dict[str, Any]:
    """The same call with one turn of one speaker."""
    data = rich_report()
    return {**data, "turns": data["turns"][:1], "speakers": data["speakers"][:1], "alerts": []}


@pytest.fixture(params=["duckdb", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "duckdb":
        return f"duckdb:///{tmp_path}/it's calls.duckdb"
    cluster: Cluster = request.getfixturevalue("postgres")
    return cluster.make_place(f"t{abs(hash(request.node.name)) % 10**12}")


@pytest.fixture
def held(url: str) -> Iterator[Sink]:
    with Sink(url) as found:
        yield found


def asked(held: Sink, query: str) -> list[tuple[Any, ...]]:
    with held._engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sqlalchemy.text(query))]


def counted(held: Sink) -> list[int]:
    return [
        asked(held, f"SELECT count(*) FROM {table}")[0][0]
        for table in ("calls", "speakers", "turns", "words", "alerts")
    ]


def test_every_value_arrives(held: Sink) -> None:
    data = rich_report()
    held.write(A, data, analysed=1000.0)
    assert counted(held) == [1, 2, 8, 17, 1]
    ((path, duration, turns, interruptions, version, model),) = asked(
        held, "SELECT path, duration, turns, interruptions, schema_version, model FROM calls"
    )
    assert (path, duration, turns, interruptions) == ("calls/sample call.wav", 40.0, 8, 1)
    assert (version, model) == ("1.1", "bundled")
    said = asked(
        held,
        "SELECT turn, start_seconds, end_seconds, channel, speaker, speech_activity, transcript,"
        " emotion, emotion_confidence, gender, loudness_db, flags FROM turns ORDER BY turn",
    )
    for row, turn in zip(said, data["turns"], strict=True):
        names = ("start", "end", "channel", "speaker", "SpeechActivity", "Transcript", "Emotion")
        assert row[1:8] == tuple(turn.get(name) for name in names)
        assert row[8:11] == (
            turn["confidence"].get("Emotion"), turn.get("Gender"), turn.get("loudness_db")
        )  # fmt: skip
    assert said[5][11] == "transcript_truncated"
    words = asked(
        held, "SELECT turn, number, word, start_seconds, probability FROM words ORDER BY number"
    )
    assert [row[2] for row in words] == [word["word"] for word in data["turns"][2]["words"]]
    assert words[0][:2] == (2, 0)
    assert words[1][3:] == (8.4, 0.9)
    assert asked(held, "SELECT rule, condition, turn, text FROM alerts") == [
        ("refund", "words", 1, "order")
    ]
    speakers = asked(
        held,
        "SELECT speaker, talk_share, emotion, CAST(emotion_shares ->> 'Anger' AS DOUBLE PRECISION)"
        " FROM speakers ORDER BY number",
    )
    assert speakers == [("agent", 0.4855, "Neutral", 0.04), ("customer", None, "Anger", 0.4)]
    reason = "call_fields -> 'summary' -> 'value' ->> 'reason'"
    assert asked(held, f"SELECT {reason} FROM calls") == [("late order",)]


def test_a_call_that_is_written_again_leaves_nothing_of_before(held: Sink) -> None:
    held.write(A, rich_report())
    held.write(B, rich_report())
    held.write(A, rich_report())
    assert counted(held) == [2, 4, 16, 34, 2]
    held.write(A, shorter())
    assert counted(held) == [2, 3, 9, 17, 1]
    held.write(A, document(empty_report()))
    assert counted(held) == [2, 2, 8, 17, 1]
    assert asked(held, f"SELECT turns, call_fields FROM calls WHERE digest = '{A}'") == [(0, None)]


def test_a_write_that_fails_leaves_what_was_there(
    held: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.write(A, rich_report())
    insert = sink._insert

    def fails(connection: Any, table: Any, rows: Any) -> None:
        if table.name == "words":
            connection.execute(sqlalchemy.text("SELECT * FROM there_is_none"))
        insert(connection, table, rows)

    monkeypatch.setattr(sink, "_insert", fails)
    with pytest.raises(StoreError, match="there_is_none") as refused:
        held.write(A, {**rich_report(), "warnings": ["new"] * 7})
    assert "good morning" not in str(refused.value)
    monkeypatch.undo()
    assert counted(held) == [1, 2, 8, 17, 1]
    assert asked(held, "SELECT warnings FROM calls") == [(1,)]
    held.write(A, shorter())
    assert counted(held) == [1, 1, 1, 0, 0]


def test_text_of_every_kind(held: Sink) -> None:
    data = shorter()
    data["turns"][0]["Transcript"] = "nul\0 quote' colon :x %s {} \\ é 你 \U0001f600"
    data["audio"]["path"] = "a\\xff'; DROP TABLE calls; --.wav"
    data["call_fields"] = {"s": {"value": {"a\0b": "c\0d"}, "evidence": {}, "parts": 1}}
    held.write(A, data)
    ((text,),) = asked(held, "SELECT transcript FROM turns")
    assert text == data["turns"][0]["Transcript"].replace("\0", "\ufffd")
    ((path,),) = asked(held, "SELECT path FROM calls")
    assert path == data["audio"]["path"]


def test_calls_are_erased_by_age(held: Sink) -> None:
    held.write(A, rich_report(), analysed=1000.0)
    held.write(B, rich_report(), analysed=3000.0)
    assert [(call.digest, call.analysed) for call in held.calls(2000.0)] == [(A, 1000.0)]
    # One that was analysed again since is another matter.
    assert not held.erase(B, 2000.0)
    assert held.erase(A, 2000.0)
    assert not held.erase(A, 2000.0)
    held.compact()
    assert counted(held) == [1, 2, 8, 17, 1]
    held.write(A, rich_report())
    assert held.count() == 2


def test_threads_write_together(url: str) -> None:
    with Sink(url) as held:

        def write() -> None:
            for _ in range(2):
                held.write(A, rich_report())
                held.write(B, shorter())

        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counted(held) == [2, 3, 9, 17, 1]
    with Sink(url) as again:
        assert again.count() == 2


def test_columns_of_later_versions_are_added(url: str) -> None:
    with Sink(url) as held:
        held.write(A, rich_report())
        with held._engine.begin() as connection:
            connection.execute(sqlalchemy.text("ALTER TABLE calls DROP COLUMN call_fields"))
            connection.execute(sqlalchemy.text("DROP TABLE alerts"))
    with Sink(url) as held:
        assert counted(held) == [1, 2, 8, 17, 0]
        held.write(A, rich_report())
        assert counted(held) == [1, 2, 8, 17, 1]
        assert asked(held, "SELECT count(call_fields) FROM calls") == [(1,)]


def test_tables_of_others_are_left_alone(url: str) -> None:
    with Sink(url) as held, held._engine.begin() as connection:
        for table in ("calls", "turns"):
            connection.execute(sqlalchemy.text(f"DROP TABLE {table}"))
        connection.execute(sqlalchemy.text("CREATE TABLE turns (wheel INTEGER)"))
    with pytest.raises(UsageError, match="somebody else's"):
        Sink(url)
    if url.startswith("postgresql"):
        with pytest.raises(StoreError, match="no schema has been selected"):
            Sink(url.replace("search_path%3D", "search_path%3Dabsent_"))


class TestDuckDB:
    def test_nothing_that_was_erased_stays_in_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "calls.duckdb"
        with Sink(f"duckdb:///{path}") as held:
            secret = shorter()
            # Long and of every letter, so that no compression hides it.
            secret["turns"][0]["Transcript"] = "".join(map(chr, range(33, 127)))
            held.write(A, secret)
            held.write(B, {**shorter(), "warnings": []})
            path.chmod(0o640)
            held.erase(A, 1e12)
            held.compact()
            held.write(A, shorter())
            assert held.count() == 2
        assert secret["turns"][0]["Transcript"].encode() not in path.read_bytes()
        assert [item.name for item in tmp_path.iterdir()] == ["calls.duckdb"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o640

    def test_a_file_is_one_process_s(self, tmp_path: Path) -> None:
        url = f"duckdb:///{tmp_path}/calls.duckdb"
        code = (
            f"import duckdb, time; c = duckdb.connect({url[10:]!r}); print(1, flush=True); input()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdout is not None
            other.stdout.readline()
            with pytest.raises(UsageError) as refused:
                Sink(url)
            assert f"process {other.pid}" in refused.value.message
            assert "use PostgreSQL" in refused.value.hint
            other.communicate(b"\n")
        Sink(url).close()

    @pytest.mark.parametrize("content", [b"no database", b"\0" * 10_000])
    def test_files_that_are_none(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "calls.duckdb"
        path.write_bytes(content)
        with pytest.raises(StoreError):
            Sink(f"duckdb:///{path}")
        assert path.read_bytes() == content
        with pytest.raises(StoreError, match="No such file"):
            Sink(f"duckdb:///{tmp_path}/absent/calls.duckdb")
        with pytest.raises(UsageError, match="is a folder"):
            Sink(f"duckdb:///{tmp_path}")
        with pytest.raises(UsageError, match="there is no"):
            Sink(f"duckdb:///{tmp_path}/other.duckdb", there=True)


class TestPostgreSQL:
    def test_a_server_that_stops_and_comes_back(
        self, postgres: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Sink(postgres.make_place("stops")) as held:
            held.write(A, rich_report())
            postgres.ctl("restart", "-m", "immediate")
            # The connection is gone and another is made.
            held.write(A, shorter())
            assert counted(held) == [1, 1, 1, 0, 0]
            postgres.ctl("stop", "-m", "immediate")
            try:
                for reason in ("refused", "did not answer a moment ago"):
                    with pytest.raises(StoreError, match=reason):
                        held.write(B, rich_report())
                assert held.is_away
            finally:
                postgres.ctl("start")
            held.try_again()
            held.write(B, rich_report())
            assert held.count() == 2

    def test_two_processes_begin_at_once(self, postgres: Cluster) -> None:
        url = postgres.make_place("both")
        errors: list[SpeechMetaError] = []

        def begin() -> None:
            try:
                with Sink(url) as held:
                    held.write(A, rich_report())
            except SpeechMetaError as error:
                errors.append(error)

        threads = [threading.Thread(target=begin) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        with Sink(url) as held:
            assert counted(held) == [1, 2, 8, 17, 1]

    def test_passwords_are_never_shown(self, postgres: Cluster) -> None:
        wrong = postgres.url("postgres", "wr%2Fong-password")
        absent = postgres.url("there_is_none")
        query = f"postgresql://speech@127.0.0.1:{postgres.port}/there_is_none?password={ESCAPED}"
        for url in (wrong, absent, query):
            with pytest.raises(StoreError) as refused:
                Sink(url)
            for secret in (PASSWORD, ESCAPED, "wr/ong-password", "wr%2Fong-password"):
                assert secret not in str(refused.value)
                assert secret not in repr(parsed(url))
            assert "***" in str(refused.value)
        with Sink(postgres.make_place("shown")) as held:
            place = f"postgresql://speech:***@127.0.0.1:{postgres.port}/postgres"
            assert held.address == f"{place}?options=-csearch_path%3Dshown"

    def test_who_may_not_make_tables_is_told(self, postgres: Cluster) -> None:
        url = postgres.make_place("rights")
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE ROLE poor LOGIN PASSWORD 'poor'")
            connection.execute("GRANT USAGE ON SCHEMA rights TO poor")
        poor = url.replace(f"speech:{ESCAPED}", "poor:poor")
        with pytest.raises(StoreError, match="permission denied") as refused:
            Sink(poor)
        assert "have the owner of the database begin a run" in refused.value.hint
        with Sink(url), psycopg.connect(url, autocommit=True) as connection:
            connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA rights TO poor")
        with Sink(poor) as held:
            held.write(A, rich_report())
            assert held.count() == 1


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("calls.duckdb", "no URL"),
        ("", "no URL"),
        ("sqlite:///secret.db", "'sqlite'"),
        ("postgresql+psycopg2://a:secret@b/c", "'postgresql\\+psycopg2'"),
        ("postgresql://a:secret@b", "names no database"),
        ("postgresql://a:secret@b:port/c", "no URL"),
        ("duckdb://", "has to be a file"),
        ("duckdb:///:memory:", "has to be a file"),
        ("duckdb:///md:mine", "has to be a file"),
        ("duckdb://a:secret@b/c", "three slashes"),
        ("duckdb:///a.duckdb?access_mode=read_only", "three slashes"),
    ],
)
def test_urls_that_are_not_understood(url: str, text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parsed(url)
    assert text.replace("\\", "") in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "duckdb:///" in refused.value.hint


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"speechmeta\[store\]"):
        parsed("postgresql://a@b/c")


def test_tables_have_all_that_documents_have() -> None:
    names = {columns.column_name(name) for name in Alert.model_fields}
    assert names <= set(columns.ALERTS.columns.keys())
    assert {columns.column_name(name) for name in Word.model_fields} <= set(
        columns.WORDS.columns.keys()
    )
    quoted = sqlalchemy.dialects.postgresql.dialect().identifier_preparer
    for table in columns.METADATA.sorted_tables:
        for name in (table.name, *table.columns.keys()):
            assert not quoted._requires_quotes(name), f"{name} would have to be quoted"
