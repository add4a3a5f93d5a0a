"""Pipes, FIFOs, standard input and files that grow work like files."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from audio_files import Sine, write_wav

from speechmeta.audio.loading import load_audio
from speechmeta.audio.recording import Recording
from speechmeta.errors import AudioError

pytestmark = pytest.mark.slow

RATE = 8000


def joined(recording: Recording) -> np.ndarray:
    return np.concatenate(list(recording.blocks()), 1)


def open_recording(source: object) -> Recording:
    return Recording(source, lambda rate: rate, 0.032)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_is_read_once_and_gone_through_twice(tmp_path: Path, sine: Sine) -> None:
    data = write_wav(tmp_path / "a.wav", sine(2, RATE), RATE).read_bytes()
    fifo = tmp_path / "fifo.wav"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(data,))
    writer.start()
    recording = open_recording(fifo)
    first, second = joined(recording), joined(recording)
    writer.join()
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, load_audio(data).waveform)
    assert recording.path == str(fifo)


SCRIPT = """
import sys
from speechmeta.audio.loading import load_audio
print(load_audio(sys.argv[1]).duration)
"""


@pytest.mark.skipif(os.name == "nt", reason="these names are those of Unix")
@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0"])
@pytest.mark.parametrize("piped", [True, False])
def test_standard_input_is_a_source(tmp_path: Path, sine: Sine, name: str, piped: bool) -> None:
    path = write_wav(tmp_path / "a.wav", sine(2, RATE), RATE)
    command = [sys.executable, "-c", SCRIPT, name]
    with open(path, "rb") as file:
        feed = {"input": path.read_bytes()} if piped else {"stdin": file}
        done = subprocess.run(command, capture_output=True, check=True, **feed)
    assert float(done.stdout) == 2.0


def test_a_file_that_grows_is_read_as_it_was(tmp_path: Path, sine: Sine) -> None:
    path = tmp_path / "growing.ulaw"
    path.write_bytes(np.random.default_rng(0).bytes(4 * RATE))
    recording = open_recording(path)
    with open(path, "ab") as file:
        file.write(bytes(RATE))
    assert joined(recording).shape == (1, 4 * RATE)
    assert joined(recording).shape == (1, 4 * RATE)
    assert any("still being written" in warning for warning in recording.warnings)


def test_endless_devices_and_terminals_are_refused() -> None:
    if not os.path.exists("/dev/zero"):
        pytest.skip("this system has no /dev/zero")
    with pytest.raises(AudioError, match="without an end"):
        load_audio("/dev/zero")


def test_a_full_folder_for_temporary_files_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    class Pipe:
        def read(self, size: int = -1) -> bytes:
            return b"RIFF"

    monkeypatch.setattr("speechmeta.audio.source.tempfile.TemporaryFile", Full)
    with pytest.raises(AudioError, match="No space left"):
        load_audio(Pipe())  # type: ignore[arg-type]
