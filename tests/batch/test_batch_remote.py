"""Folder runs over what is not on this disk: fsspec's memory, S3 as moto imitates it, and HTTP."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fakes import FakeEngine
from s3_server import imitated_s3
from serving import tone_bytes

from speechmeta.audio.rawformats import RawRules
from speechmeta.batch.calls import CallJob, LoadedAnalyzer
from speechmeta.batch.discovery import Discovery
from speechmeta.batch.remote_folder import find_remote_audio, folder_address
from speechmeta.batch.runner import FolderOptions, FolderResult, run_folder
from speechmeta.batch.watching import listed_files, watch
from speechmeta.errors import AudioError, MissingExtraError, UsageError
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions


@pytest.fixture
def store() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def found(root: str, **options: Any) -> list[str]:
    files = find_remote_audio(folder_address(root), **options)
    return [item.relative.decode("utf-8", "surrogateescape") for item in files]


class TestDiscovery:
    def test_by_name_and_by_content(self, store: Any) -> None:
        for name in ("b/2.wav", "b/1.mp3", "a.ulaw", "notes.txt", "b/.speechmeta-x.wav", "z.rec"):
            store.pipe(f"/calls/{name}", b"x")
        store.pipe("/calls/b/unnamed", tone_bytes())
        store.pipe("/elsewhere/c.wav", b"x")
        seen = Discovery()
        assert found("memory://calls/", seen=seen) == ["a.ulaw", "b/1.mp3", "b/2.wav", "b/unnamed"]
        assert dict(seen.others) == {".txt": 1, ".rec": 1}
        assert found("memory://calls", include=["b/*"], exclude=["*.mp3"], seen=seen) == [
            "b/2.wav", "b/unnamed"
        ]  # fmt: skip
        assert seen.excluded == 4
        assert "notes.txt" in found("memory://calls", strict=True)
        assert "z.rec" in found("memory://calls", raw=RawRules.parse("*.rec:codec=mulaw"))
        sizes = {item.relative: item.size for item in find_remote_audio("memory://calls")}
        assert sizes[b"b/unnamed"] == len(tone_bytes())

    def test_names_that_no_file_can_have(self, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        store.pipe("/calls/a.wav", b"x")
        names = ("/calls/../x.wav", "/calls//y.wav", "/calls/./z.wav", "/calls", "/other/q.wav")
        listed = [{"name": name, "size": 1, "type": "file"} for name in (*names, "/calls/a.wav")]
        monkeypatch.setattr(type(store), "ls", lambda *_, **__: listed)
        seen = Discovery()
        assert found("memory://calls", seen=seen) == ["a.wav"]
        assert len(seen.notes or []) == 3
        assert all("no name of a file" in note for note in seen.notes or [])

    def test_a_part_that_cannot_be_listed(
        self, store: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.pipe("/calls/a.wav", b"x")
        store.pipe("/calls/b/c.wav", b"x")
        original = type(store).ls

        def ls(self: Any, path: str, detail: bool = True) -> Any:
            if path.endswith("/b"):
                raise PermissionError
            return original(self, path, detail)

        monkeypatch.setattr(type(store), "ls", ls)
        seen = Discovery()
        assert found("memory://calls", seen=seen) == ["a.wav"]
        assert "memory://calls/b may not be read" in (seen.notes or [""])[0]

    @pytest.mark.parametrize(
        ("root", "kind", "text"),
        [
            ("memory://absent", AudioError, "does not exist"),
            ("memory://calls/a.wav", UsageError, "is not a folder"),
            ("memory://", UsageError, "names no folder"),
            ("memory://a::memory://b", UsageError, "chain"),
            ("https://host/calls?key=secret", UsageError, "has a query"),
        ],
    )
    def test_what_is_no_folder(
        self, store: Any, root: str, kind: type[Exception], text: str
    ) -> None:
        store.pipe("/calls/a.wav", b"x")
        with pytest.raises(kind, match=text) as refused:
            found(root)
        assert "secret" not in str(refused.value)

    def test_a_library_that_is_absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def absent(*_: Any, **__: Any) -> Any:
            raise ImportError("s3fs")

        monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
        with pytest.raises(MissingExtraError, match="s3:// needs"):
            found("s3://bucket/calls")

    def test_new_ones_are_seen(self, store: Any, tmp_path: Path) -> None:
        store.pipe("/calls/a.wav", b"x")
        runs: list[frozenset[Any]] = []
        looks = 0

        def sleep(seconds: float) -> None:
            nonlocal looks
            assert seconds == 60.0
            looks += 1
            if looks == 2:
                store.pipe("/calls/b.wav", b"xy")
            if looks == 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            watch("memory://calls", tmp_path,
                  lambda: runs.append(listed_files("memory://calls")), sleep=sleep)  # fmt: skip
        assert [len(run) for run in runs] == [1, 2]


def analysed(root: str, out: Path, **options: Any) -> tuple[FolderResult, list[dict[str, Any]]]:
    chosen = CallOptions(vad=False)
    source = LoadedAnalyzer(Analyzer.from_engine(FakeEngine()), chosen)
    result = run_folder(root, out, CallJob(chosen), source, FolderOptions(**options))
    return result, [json.loads(line) for line in result.results.read_text().splitlines()]


@pytest.mark.slow
def test_a_run_over_s3_and_its_resumption(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with imitated_s3(monkeypatch) as system:
        system.mkdir("bucket")
        for name, seconds in (("a.wav", 1.0), ("deep/b c.wav", 2.0), ("deep/ü.wav", 1.5)):
            system.pipe(f"bucket/calls/{name}", tone_bytes(seconds))
        system.pipe("bucket/calls/broken.wav", b"nothing")
        system.pipe("bucket/calls/notes.txt", b"text")
        out = tmp_path / "out"
        result, lines = analysed("s3://bucket/calls/", out, formats=("json",), report=True)
        assert (result.counts.done, result.counts.failed) == (3, 1)
        assert dict(result.found.others) == {".txt": 1}
        by_path = {line["audio"]["path"]: line for line in lines}
        assert by_path["s3://bucket/calls/deep/b c.wav"]["audio"]["duration"] == 2.0
        assert by_path["s3://bucket/calls/broken.wav"]["error"]["type"] == "AudioError"
        assert (out / "calls" / "deep" / "ü.wav.json").exists()
        assert "deep/b c.wav" in (out / "index.html").read_text()

        # What is there is not read again, what came is; what failed is on request.
        system.pipe("bucket/calls/a.wav", b"changed since")
        system.pipe("bucket/calls/new.wav", tone_bytes())
        system.pipe("bucket/calls/broken.wav", tone_bytes(3.0))
        result, lines = analysed("s3://bucket/calls", out, formats=("json",), report=True,
                                 resume=True, retry_failed=True)  # fmt: skip
        assert (result.counts.done, result.counts.failed) == (5, 0)
        assert result.audio_seconds == 4.0
        with pytest.raises(UsageError):
            analysed("s3://bucket/other", out, resume=True)


@pytest.mark.slow
def test_a_page_of_links(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed: speechmeta[remote]")
    root = tmp_path / "served"
    (root / "calls" / "deep").mkdir(parents=True)
    (root / "other.wav").write_bytes(tone_bytes())
    (root / "calls" / "a b.wav").write_bytes(tone_bytes(1.0))
    (root / "calls" / "deep" / "b.wav").write_bytes(tone_bytes(2.0))
    (root / "calls" / "notes.txt").write_text("text")
    handler: Any = functools.partial(Quiet, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://someone:secret@127.0.0.1:{server.server_port}"
            result, lines = analysed(f"{address}/calls", tmp_path / "out")
            assert (result.counts.done, result.counts.failed) == (2, 0)
            assert [line["audio"]["path"].partition("/calls/")[2] for line in lines] == [
                "a%20b.wav", "deep/b.wav"
            ]  # fmt: skip
            files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
            written = b"".join(path.read_bytes() for path in files)
            assert b"secret" not in written
            with pytest.raises(AudioError, match="does not exist"):
                analysed(f"{address}/calls/notes.txt", tmp_path / "none")
        finally:
            server.shutdown()
            thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_results_stay_on_this_machine(run_cli: Any, tmp_path: Path) -> None:
    for command in (["batch", "memory://calls"], ["analyze", "memory://calls/a.wav"]):
        result = run_cli(*command, "-o", "s3://bucket/results")
        assert result.code == 2
        assert "are not written to s3://bucket/results" in result.stderr
