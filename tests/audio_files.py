"""Recordings that the tests make."""

from __future__ import annotations

import shutil
import subprocess
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

Sine = Callable[..., npt.NDArray[np.float32]]
SECONDS = 1.5
LEVEL = 0.25


def write_wav(path: Path, samples: npt.NDArray[Any], rate: int) -> Path:
    """16-bit PCM from floats (samples,) or (channels, samples)."""
    rows = np.atleast_2d(samples)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(rows))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(rows.T * 32767).astype("<i2").tobytes())
    return path


def encode_with_av(path: Path, codec: str, samples: npt.NDArray[np.float32], rate: int) -> None:
    """Encodes mono audio with PyAV; `path`'s ending names the container."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        if codec.startswith("libopencore"):
            stream.bit_rate = 12200
        pcm = np.round(samples * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in stream.encode(frame):
            container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


def encode_with_ffmpeg(source: Path, target: Path, *options: str) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("the program ffmpeg is not installed")
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(source), *options, str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Unknown encoder" in done.stderr:
        pytest.skip(f"this ffmpeg has no encoder for {target.suffix}")
    assert done.returncode == 0, done.stderr
