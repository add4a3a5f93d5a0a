"""Recordings at an address, from fsspec's memory and from S3 as moto imitates it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from s3_server import imitated_s3
from serving import tone_bytes

from speechmeta.audio import remote
from speechmeta.audio.loading import load_audio
from speechmeta.audio.remote import fetched, is_remote, shown
from speechmeta.errors import AudioError, MissingExtraError


@pytest.fixture
def store() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def test_a_recording_is_read_as_from_the_disk(store: Any) -> None:
    store.pipe("/calls/a.wav", tone_bytes())
    audio = load_audio("memory://calls/a.wav")
    assert (audio.path, audio.sample_rate, audio.duration) == ("memory://calls/a.wav", 16000, 1.0)
    store.pipe("/calls/b.ulaw", b"\xff" * 8000)
    assert load_audio("memory://calls/b.ulaw").codec == "pcm_mulaw", "the name says what it is"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://calls/absent.wav", "does not exist"),
        ("memory://calls", "is a folder|does not exist|cannot be fetched"),
        ("file:///etc/passwd", "not fetched"),
        ("zip://a.wav::memory://x.zip", "not fetched"),
        ("memory://x::memory://y", "chain of addresses"),
        ("ftp://host/a.wav", "not fetched"),
    ],
)
def test_what_is_refused(store: Any, address: str, message: str) -> None:
    store.pipe("/calls/sub/a.wav", b"x")
    with pytest.raises(AudioError, match=message) as refused:
        load_audio(address)
    assert refused.value.hint


def test_what_came_is_compared_with_what_the_store_says(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.pipe("/a.wav", tone_bytes())
    original = type(store).info
    stated: dict[str, Any] = {}

    def info(self: Any, path: str, **options: Any) -> dict[str, Any]:
        return {**original(self, path, **options), **stated}

    monkeypatch.setattr(type(store), "info", info)
    right = "0" * 32
    for claim, message in (
        ({"size": 10}, "incomplete"),
        ({"md5Hash": "AAAAAAAAAAAAAAAAAAAAAA=="}, "checksum"),
        ({"ETag": f'"{right}"', "StorageClass": "STANDARD"}, "checksum"),
    ):
        stated = claim
        with pytest.raises(AudioError, match=message):
            fetched("memory://a.wav")
    # In several pieces or encrypted, an ETag is no MD5.
    for claim in (
        {"ETag": f'"{right}-2"', "StorageClass": "STANDARD"},
        {"ETag": right, "StorageClass": "STANDARD", "ServerSideEncryption": "aws:kms"},
    ):
        stated = claim
        fetched("memory://a.wav").close()
    monkeypatch.setattr(remote, "MAX_BYTES", 100)
    with pytest.raises(AudioError, match="larger than"):
        fetched("memory://a.wav")


def test_errors_name_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "https://user:pass@store.example/a.wav?X-Amz-Signature=abc"
    assert shown(address) == "https://store.example/a.wav"

    raised: list[Exception] = []

    def broken(address: str) -> Any:
        raise raised[-1]

    monkeypatch.setattr(fsspec.core, "url_to_fs", broken)
    kinds: list[tuple[Exception, type[Exception]]] = [
        (ImportError("aiohttp"), MissingExtraError),
        (PermissionError("no"), AudioError),
        (RuntimeError(address), AudioError),
    ]
    for error, kind in kinds:
        raised.append(error)
        with pytest.raises(kind) as refused:
            fetched(address)
        assert "pass" not in str(refused.value)
        assert "Signature" not in str(refused.value)


def test_paths_are_no_addresses() -> None:
    for path in ("a.wav", "/calls/a.wav", "C:\\a.wav", "s3:/a", "://x", "-"):
        assert not is_remote(path)


def test_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    with imitated_s3(monkeypatch) as system:
        system.mkdir("calls")
        system.pipe("calls/a.wav", tone_bytes())
        fsspec.filesystem("s3").clear_instance_cache()
        assert load_audio("s3://calls/a.wav").duration == 1.0
        with pytest.raises(AudioError, match="does not exist"):
            load_audio("s3://calls/absent.wav")


class _Answer(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (None, "does not exist"),
        (_Answer(404), "does not exist"),
        (_Answer(403), "may not be read"),
        (_Answer(500), "cannot be fetched"),
        (ConnectionRefusedError(111, "refused"), "cannot be fetched: ConnectionRefusedError"),
        (TimeoutError(), "cannot be fetched: TimeoutError"),
    ],
)
def test_a_server_that_is_out_of_reach_is_not_a_file_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, cause: Exception | None, message: str
) -> None:
    def missing(address: str) -> Any:
        raise FileNotFoundError(address) from cause  # as fsspec does for all of these

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(AudioError, match=message):
        fetched("https://store.example/a.wav")
