"""The parts of folder runs: discovery, scheduling, worker processes, journal."""

from __future__ import annotations

import multiprocessing.connection
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from speechmeta.audio.rawformats import RawRules
from speechmeta.batch.discovery import Discovery, FoundFile, find_audio, looks_like_audio
from speechmeta.batch.job import SpilledTurn, limit_threads
from speechmeta.batch.journal import STATE_FOLDER, Journal
from speechmeta.batch.scheduling import TurnQueue
from speechmeta.batch.summary import summarize
from speechmeta.batch.workers import Ask, Done, WorkerCrash, WorkerPool
from speechmeta.errors import AudioError, OutputError, UsageError
from speechmeta.writers.failure import error_record

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt "
MP3 = bytes([0xFF, 0xFB, 0x90, 0x64]) + bytes(413) + bytes([0xFF, 0xFB, 0x90, 0x64]) + bytes(413)


def found(root: Path, **options: Any) -> list[str]:
    return [os.fsdecode(file.relative) for file in find_audio(root, **options)]


def put(root: Path, **files: bytes) -> None:
    for name, data in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


class TestDiscovery:
    def test_headerless_files_are_found_by_name_and_by_rule(self, tmp_path: Path) -> None:
        put(tmp_path, a_pcmu=bytes(80), b_sln16=bytes(80), c_rec=bytes(80), d_bin=bytes(80))
        assert found(tmp_path) == ["a.pcmu", "b.sln16"]
        rules = RawRules.parse("*.rec: codec=alaw; codec=s16le")
        assert found(tmp_path, raw=rules) == ["a.pcmu", "b.sln16", "c.rec"]

    def test_content_and_not_the_name_decides(self, tmp_path: Path) -> None:
        put(tmp_path, call_bin=WAV, sub__noext=b"fLaC", sub__deep__x_dat=MP3, note_txt=b"hello")
        put(tmp_path, broken_wav=b"", picture_jpg=b"\xff\xd8\xff\xe0", movie_mp4=b"????ftypisom")
        put(tmp_path, ghost_wav=b"\x00\x05\x16\x07 a Mac's shadow", photo_heic=b"????ftypheic")
        seen = Discovery()
        assert found(tmp_path, seen=seen) == [
            "broken.wav",
            "call.bin",
            "movie.mp4",
            "sub/noext",
            "sub/deep/x.dat",
        ]
        assert seen.ignored == 4

    @pytest.mark.parametrize(
        "head",
        [
            WAV,
            b"RF64....WAVE",
            b"FORM....AIFC",
            b"OggS",
            b"ID3\x04",
            b"#!AMR\n",
            b"\x1a\x45\xdf\xa3",
            MP3,
            MP3[:10],
            bytes([0xFF, 0xF1, 0x50, 0x80, 0x01, 0x00, 0xFC]) + bytes(1) + bytes([0xFF, 0xF1]),
        ],
    )
    def test_audio_is_known_by_its_first_bytes(self, head: bytes) -> None:
        assert looks_like_audio(head)

    @pytest.mark.parametrize(
        "head",
        [
            b"",
            b"\xff",
            b"RIFF....WEBP",
            b"\xff\xfeh\x00i\x00" * 100,
            b"\xff\xfb\x90\x64" + b"x" * 900,
        ],
    )
    def test_other_bytes_are_not_taken_for_audio(self, head: bytes) -> None:
        assert not looks_like_audio(head)

    def test_globs_include_and_exclude_names_and_paths(self, tmp_path: Path) -> None:
        put(tmp_path, a_wav=WAV, b_mp3=MP3, old__c_wav=WAV, new__d_wav=WAV, new__old__e_wav=WAV)
        assert found(tmp_path, include=["*.wav"], exclude=["old"]) == ["a.wav", "new/d.wav"]
        assert found(tmp_path, include=["new/*"]) == ["new/d.wav", "new/old/e.wav"]
        assert found(tmp_path, exclude=["new/*", "*.mp3"]) == ["a.wav", "old/c.wav"]
        seen = Discovery()
        found(tmp_path, exclude=["*.wav"], seen=seen)
        assert seen.excluded == 4
        with pytest.raises(UsageError, match="not a glob"):
            found(tmp_path, include=["/"])

    def test_order_is_that_of_the_bytes(self, tmp_path: Path) -> None:
        put(tmp_path, b_wav=WAV, B_wav=WAV, a__z_wav=WAV, ab_wav=WAV)
        assert found(tmp_path) == ["B.wav", "ab.wav", "b.wav", "a/z.wav"]

    def test_pipes_and_sockets_are_not_opened(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.wav")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(tmp_path / "socket.wav"))
            seen = Discovery()
            assert found(tmp_path, seen=seen) == []
        assert len(seen.notes or []) == 2

    def test_a_folder_that_cannot_be_read_is_noted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tmp_path, locked__a_wav=WAV, b_wav=WAV)
        scandir = os.scandir

        def refuse(path: bytes) -> Any:
            if path.endswith(b"locked"):
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        seen = Discovery()
        assert found(tmp_path, seen=seen) == ["b.wav"]
        assert [note.rpartition(": ")[2] for note in seen.notes or []] == ["Permission denied"]


class TestTurnQueue:
    def turn(self, call: int, index: int, length: int) -> SpilledTurn:
        return SpilledTurn(call, index, "", 0, length)

    def test_the_oldest_goes_first_with_those_of_its_length(self) -> None:
        queue = TurnQueue()
        lengths = [50, 500, 60, 490, 55, 510, 40]
        for number, length in enumerate(lengths):
            queue.add(self.turn(number, 0, length))
        assert queue.seconds() == pytest.approx(sum(lengths) / 16000)
        assert sorted(turn.length for turn in queue.take(4)) == [40, 50, 55, 60]
        assert sorted(turn.length for turn in queue.take(4)) == [490, 500, 510]
        assert queue.take(4) == []
        assert queue.seconds() == 0

    def test_every_turn_comes_once(self) -> None:
        rng = np.random.default_rng(1)
        queue = TurnQueue()
        put = [self.turn(int(rng.integers(50)), i, int(rng.integers(1, 99))) for i in range(300)]
        for turn in put:
            queue.add(turn)
        got: list[SpilledTurn] = []
        while batch := queue.take(7):
            got += batch
        assert sorted(got, key=lambda turn: turn.index) == put

    def test_clients_take_turns_at_being_first(self) -> None:
        queue = TurnQueue(fair=True)
        for call in range(5):
            for index in range(2):
                queue.add(SpilledTurn(call, index, "", 0, 100, client="many"))
        queue.add(SpilledTurn(9, 0, "", 0, 50_000, client="one"))
        queue.add(SpilledTurn(8, 0, "", 0, 60_000, client="another"))
        assert (queue.seconds("one"), queue.seconds()) == (50_000 / 16000, 0)
        assert [queue.take(1)[0].call for _ in range(12)] == [0, 9, 8, 1, 2, 3, 4, 0, 1, 2, 3, 4]
        assert queue.take(1) == []

    def test_long_turns_make_small_batches(self) -> None:
        queue = TurnQueue()
        for number in range(8):
            queue.add(self.turn(number, 0, 60 * 16000))
        assert len(queue.take(8)) == 2
        queue = TurnQueue(fair=True)
        for number in range(8):
            queue.add(self.turn(number, 0, 10 * 16000))
        assert [len(queue.take(8)) for _ in range(3)] == [4, 4, 0], "others wait for the next"
        # One alone always goes, however long.
        queue = TurnQueue()
        queue.add(self.turn(0, 0, 10_000 * 16000))
        assert len(queue.take(8)) == 1


class Echo:
    """A task that does what its payload says."""

    def __init__(self, start: str = "") -> None:
        self.how = start

    def start(self) -> str:
        if self.how == "die":
            os._exit(3)
        if self.how == "fail":
            raise AudioError("cannot start", "so it is")
        return "hello"

    def run(self, payload: Any, ask: Ask) -> Any:
        if payload == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if payload == "hang":
            time.sleep(600)
        if payload == "wrong":
            raise AudioError("wrong", "hint")
        if payload == "bug":
            raise ZeroDivisionError("bug")
        if payload == "pid":
            return os.getpid()
        if payload == "be told to end":
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            return "went on"
        return payload


pool: WorkerPool[str]


def exit_with_a_busy_worker() -> None:
    global pool  # as long as Python lives
    pool = WorkerPool(Echo(), 1, on_ready=lambda _: print("ready", flush=True))
    pool.submit("a", "hang")
    multiprocessing.connection.wait(pool.waitables())
    assert pool.collect() == []
    sys.exit(7)


def gather(pool: WorkerPool[str], count: int) -> dict[str, Done[str]]:
    ended: dict[str, Done[str]] = {}
    while len(ended) < count:
        deadline = pool.deadline()
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        multiprocessing.connection.wait(pool.waitables(), timeout)
        for done in pool.collect():
            assert isinstance(done, Done)
            ended[done.key] = done
    return ended


@pytest.mark.slow
class TestPools:
    def test_every_end_is_reported(self) -> None:
        ready: list[Any] = []
        pool: WorkerPool[str] = WorkerPool(Echo(), 2, time_limit=1.0, on_ready=ready.append)
        try:
            pool.submit("a", "value")
            pool.submit("b", "die")
            assert pool.free() == 0
            ended = gather(pool, 2)
            assert ended["a"].value == "value"
            assert isinstance(ended["b"].error, WorkerCrash)
            assert "SIGKILL" in ended["b"].error.message
            assert ended["b"].lost
            for key in ("wrong", "bug", "hang", "pid"):
                while not pool.free():
                    ended.update(gather(pool, 1))
                pool.submit(key, key)
            ended.update(gather(pool, 6 - len(ended)))
            error = ended["wrong"].error
            assert isinstance(error, AudioError)
            assert (error.message, error.hint) == ("wrong", "hint")
            assert ended["bug"].error == ("ZeroDivisionError", "bug")
            assert type(ended["hang"].error).__name__ == "WorkerTimeout"
            assert ended["pid"].value != os.getpid()
            # One was killed and one was too slow: both were replaced.
            assert ready.count("hello") >= 3
        finally:
            pool.close()

    def test_signals_to_the_whole_group_are_for_the_parent(self) -> None:
        pool: WorkerPool[str] = WorkerPool(Echo(), 1)
        try:
            # The first comes before the process has begun to run Python.
            pool.submit("a", "be told to end")
            worker = pool._workers[0].process
            assert isinstance(worker, SpawnProcess)
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGTERM)
            os.kill(worker.pid, signal.SIGINT)
            assert gather(pool, 1)["a"].value == "went on"
        finally:
            pool.close()
        assert not worker.is_alive()

    def test_an_exit_does_not_wait_for_workers(self) -> None:
        code = f"import {__name__} as tests; tests.exit_with_a_busy_worker()"
        paths = os.pathsep.join(sys.path)
        ended = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, timeout=60,
            capture_output=True, text=True,
        )  # fmt: skip
        assert (ended.returncode, ended.stdout) == (7, "ready\n"), ended.stderr

    def test_a_process_that_cannot_start_ends_the_run(self) -> None:
        pool: WorkerPool[str] = WorkerPool(Echo("die"), 1)
        try:
            pool.submit("a", "value")
            with pytest.raises(WorkerCrash, match="died while starting"):
                gather(pool, 1)
        finally:
            pool.close()

    @pytest.mark.parametrize("threaded", [False, True])
    def test_an_error_at_the_start_is_raised(self, threaded: bool) -> None:
        pool: WorkerPool[str] = WorkerPool(Echo("fail"), 1, threaded=threaded)
        try:
            pool.submit("a", "value")
            with pytest.raises(AudioError, match="cannot start"):
                gather(pool, 1)
        finally:
            pool.close()

    def test_a_thread_in_place_of_processes(self) -> None:
        ready: list[Any] = []
        pool: WorkerPool[str] = WorkerPool(Echo(), 1, on_ready=ready.append, threaded=True)
        try:
            for key in ("pid", "wrong", "bug"):
                pool.submit(key, key)
                assert pool.free() == 0
                done = gather(pool, 1)[key]
                if key == "pid":
                    assert done.value == os.getpid()
                else:
                    assert done.error is not None
            assert ready == ["hello"]
            assert pool.free() == 1
        finally:
            pool.close()


def test_threads_of_torch_are_limited_before_and_after_its_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    limit_threads(3)
    assert "torch" not in sys.modules, "its import takes seconds"
    assert os.environ["OMP_NUM_THREADS"] == "3"
    found: list[int] = []
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(set_num_threads=found.append))
    limit_threads(4)
    assert found == [4]


FAILED = '{"audio": {"path": "b"}, "error": {}}'


def document(number: int) -> str:
    """The whole line of a result."""
    return f'{{"audio": {{"path": "{number}"}}, "turns": []}}'


class TestJournal:
    @pytest.fixture
    def out(self, tmp_path: Path) -> Path:
        (tmp_path / STATE_FOLDER).mkdir()
        return tmp_path

    def test_files_and_results(self, out: Path) -> None:
        with Journal(out) as journal:
            journal.agree({"model": None, "fields": ["Gender"]})
            journal.add([FoundFile(b"b\xff", 5), FoundFile(b"a", 7)])
            entries = list(journal.missing())
            assert [(entry.relative, entry.size) for entry in entries] == [(b"a", 7), (b"b\xff", 5)]
            journal.finish(entries[1], "failed", FAILED)
        with Journal(out) as journal:
            journal.agree({"model": None, "fields": ["Gender"]})
            # Known files keep their results; a missing one may have changed.
            journal.add([FoundFile(b"a", 8), FoundFile(b"b\xff", 9)])
            assert (journal.counts().missing, journal.counts().failed) == (1, 1)
            assert journal.totals() == (8, 0.0)
            journal.finish(next(journal.missing()), "done", document(1), 2.5)
            assert list(journal.documents()) == [document(1), FAILED]
            assert list(journal.documents("done")) == [document(1)]
            assert journal.totals() == (0, 2.5)
            journal.retry_failed()
            assert [entry.relative for entry in journal.missing()] == [b"b\xff"]

    def test_more_files_than_a_page(self, out: Path) -> None:
        with Journal(out) as journal:
            journal.add(FoundFile(f"{number:05d}".encode(), 1) for number in range(2500))
            entries = journal.missing()
            for number, entry in enumerate(entries):
                assert entry.relative == f"{number:05d}".encode()
                if number < 500:
                    journal.finish(entry, "done", document(number))
            assert journal.counts().done == 500
            assert list(journal.documents()) == [document(number) for number in range(500)]

    def test_a_broken_journal_is_an_output_error(self, out: Path) -> None:
        (out / STATE_FOLDER / "journal.sqlite").write_bytes(b"this is no database" * 100)
        with pytest.raises(OutputError, match="not a database"):
            Journal(out)

    def test_a_failed_transaction_leaves_nothing(self, out: Path) -> None:
        with Journal(out) as journal:
            journal.add([FoundFile(b"a", 1)])

            def broken() -> Any:
                yield FoundFile(b"b", 1)
                raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                journal.add(broken())
            assert journal.counts().missing == 1
            with pytest.raises(sqlite3.ProgrammingError):
                journal._db.execute("SELECT ?", ())


def test_error_records_can_be_printed() -> None:
    record = error_record("a.wav", AudioError("no \udce9 sound", "try"))
    assert record["error"] == {"type": "AudioError", "message": "no \\xe9 sound", "hint": "try"}
    assert error_record("a", ("KeyError", "a\nb"))["error"]["message"] == "a b"


def test_summary_weighs_by_duration() -> None:
    turn = '{"start": %s, "end": %s, "SpeechActivity": %s, "Gender": %s}'
    turns = [
        turn % (0, 3, "true", '"Male"'),
        turn % (3, 4, "true", '"Female"'),
        turn % (4, 9, "false", "null"),
        turn % (9, 10, "true", "null"),
    ]
    talk = '{"talk_seconds": 5, "silence_seconds": 5, "overlap_seconds": 0, "interruptions": []}'
    line = (
        f'{{"audio": {{"path": "a", "duration": 10}}, "turns": [{", ".join(turns)}], '
        f'"conversation": {talk}}}'
    )
    failed = '{"audio": {"path": "b"}, "error": {"type": "AudioError", "message": "m", "hint": ""}}'
    summary = summarize([line, failed, line])
    assert summary.shares("Gender") == {"Male": 0.6, "Female": 0.2, "not sure": 0.2}
    data = summary.as_json()
    assert (data["files"], data["failed"], data["turns"]) == (2, 1, 8)
    assert data["failures"] == {"AudioError": 1}
    assert summary.examples == [("b", "AudioError", "m")]
