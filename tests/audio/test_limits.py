"""What a recording may ask for; every refusal names the option, and no foreign error comes out."""

from __future__ import annotations

import contextlib
import io
import resource
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np
import pytest

from speechmeta.audio import limits as module
from speechmeta.audio.foreign import _avutil, audio_errors
from speechmeta.audio.limits import Limits
from speechmeta.audio.loading import load_audio, probe_audio, stream_audio
from speechmeta.audio.recording import Recording
from speechmeta.errors import AudioError, UsageError


def wav(rate: int = 8000, seconds: float = 1.0, channels: int = 1, extra: bytes = b"") -> bytes:
    """16-bit noise; `extra` stands between the format and the samples."""
    samples = np.random.default_rng(0).integers(-999, 999, int(8000 * seconds) * channels)
    data = samples.astype("<i2").tobytes()
    head = struct.pack(
        "<HHIIHH", 1, channels, rate, rate * 2 * channels & 0xFFFFFFFF, 2 * channels, 16
    )
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + extra
    body += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("rate", [1, 50, 999])
def test_a_rate_that_no_recorder_has_is_refused(rate: int) -> None:
    for read in (load_audio, probe_audio, stream_audio):
        with pytest.raises(AudioError, match=rf"{rate} Hz.*--min-rate"):
            read(wav(rate))
    with pytest.raises(AudioError, match="--min-rate"):
        load_audio((np.zeros(9, np.float32), rate))
    with pytest.raises(AudioError, match="--min-rate"):
        Recording((np.zeros(9, np.float32), rate), lambda own: own, 0.032)


@pytest.mark.parametrize("rate", [768_001, 2**31 - 1])
def test_a_rate_that_would_take_all_memory_is_refused(rate: int) -> None:
    with pytest.raises(AudioError, match=r"--max-rate|not audio"):
        load_audio(wav(rate))
    with pytest.raises(AudioError, match="--max-rate"):
        load_audio((np.zeros(9, np.float32), rate))


def test_each_limit_is_an_option() -> None:
    odd = wav(500)
    assert load_audio(odd, limits=Limits(min_rate=500)).sample_rate == 500
    with pytest.raises(AudioError, match="--max-channels"):
        load_audio(wav(channels=3), limits=Limits(max_channels=2))
    with pytest.raises(AudioError, match="--max-hours"):
        load_audio(wav(seconds=5), limits=Limits(max_hours=1 / 3600))
    with pytest.raises(AudioError, match="--max-hours"):
        load_audio((np.zeros(80_000, np.float32), 8000), limits=Limits(max_hours=1 / 3600))
    with pytest.raises(UsageError):
        Limits(max_hours=0)


def test_a_recording_that_is_too_long_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = Limits(max_hours=1.5 / 3600)
    monkeypatch.setattr(Limits, "watched", lambda *_: pytest.fail("it was decoded"))
    for read in (load_audio, probe_audio, stream_audio):
        with pytest.raises(AudioError, match="--max-hours"):
            read(wav(seconds=2), limits=long)


def test_a_header_that_states_too_much_is_no_reason(tmp_path: Path) -> None:
    data = bytearray(wav(seconds=1))
    data[4:8], data[40:44] = struct.pack("<I", 10**9 + 36), struct.pack("<I", 10**9)
    audio = load_audio(bytes(data), limits=Limits(max_hours=2 / 3600))
    assert audio.duration == pytest.approx(1)
    assert "cut short" in audio.warnings[0]


def test_a_small_file_of_three_days_is_refused_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FREE_SAMPLES", 100_000)
    handed: list[int] = []

    def silence() -> Iterator[np.ndarray]:
        for _ in range(10_000):
            handed.append(1)
            yield np.zeros((1, 10_000), np.float32)

    with pytest.raises(AudioError, match="--max-expansion"):
        list(Limits().watched(silence(), "a.flac", 8000, 500))
    assert len(handed) < 60


def test_a_recording_that_takes_too_much_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr("speechmeta.audio.limits.time.thread_time", lambda: float(next(clock)))
    pieces = (np.zeros((1, 800), np.float32) for _ in range(100))
    with pytest.raises(AudioError, match="--max-work"):
        list(Limits().watched(pieces, "a.wav", 8000, 10**6))


@pytest.mark.skipif(_avutil() is None, reason="PyAV is laid out otherwise here")
def test_a_header_that_claims_gigabytes_gets_none() -> None:
    claims = b"LIST" + struct.pack("<I", 2**31 - 100) + b"INFOINAM" + struct.pack("<I", 2**31 - 120)
    data = (wav(seconds=0.05, extra=claims), wav(seconds=0.05)[:-700] + claims)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for file in data:
        with contextlib.suppress(AudioError):
            probe_audio(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


class Broken(io.BytesIO):
    """A file object that fails in ways of its own."""

    def __init__(self, data: bytes, error: Exception) -> None:
        super().__init__(data)
        self._error, self._left = error, 3

    def read(self, count: int | None = -1) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise self._error
        return super().read(count)


@pytest.mark.parametrize(
    "error",
    [OSError(22, "Invalid argument"), ValueError("no"), IndexError(), MemoryError(), EOFError(),
     RuntimeError("x"), RecursionError()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_every_error_of_a_file_object_is_an_audio_error(error: Exception) -> None:
    for read in (load_audio, probe_audio):
        with pytest.raises(AudioError):
            read(cast(IO[bytes], Broken(wav(seconds=30), error)))


def test_the_end_of_an_iterator_and_our_own_errors_pass() -> None:
    with pytest.raises(AudioError, match="own"), audio_errors("x"):
        raise AudioError("own")
    with pytest.raises(StopIteration), audio_errors("x"):
        next(iter(()))
    with pytest.raises(AudioError, match=r"OSError: .*odd"), audio_errors("x"):
        raise OSError(5, "odd")


def test_damaged_files_of_the_reported_kinds_are_audio_errors_or_audio(shared_dir: Path) -> None:
    folder = shared_dir / "cases" / "22-foreign-error"
    if not folder.is_dir():
        pytest.skip("the reported files are not here")
    for path in sorted(folder.iterdir()):
        # Any other error fails the test.
        with contextlib.suppress(AudioError):
            load_audio(path)


@pytest.mark.parametrize(
    ("case", "option"),
    [("20-flac-bomb/flac3days.flac", "--max-hours"), ("21-low-rate/rate1.wav", "--min-rate")],
)
@pytest.mark.slow
def test_the_reported_bombs_are_refused(shared_dir: Path, case: str, option: str) -> None:
    path = shared_dir / "cases" / case
    if not path.is_file():
        pytest.skip("the reported file is not here")
    with pytest.raises(AudioError, match=option):
        for _ in stream_audio(path):
            pass
