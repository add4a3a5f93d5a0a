"""Speech for tests, spoken by flite, and calls put together from it."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from speechmeta.audio.loading import load_audio

Waveform = npt.NDArray[np.float32]

SENTENCES = (
    "Thank you for calling, how can I help you today?",
    "I would like to change the address on my account.",
    "Certainly, could you tell me the number of your contract?",
    "Yes, one moment please, I have to look for it.",
    "Take all the time that you need, there is no hurry.",
    "Here it is, it was under all the other papers.",
)


@functools.cache
def _speak(text: str, voice: str, rate: int) -> Waveform:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(path)], check=True)
        samples = load_audio(path).resampled(rate)[0]
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    trimmed: Waveform = samples[loud[0] : loud[-1] + 1]
    return np.asarray(0.5 * trimmed / np.abs(trimmed).max(), dtype=np.float32)


def speak(text: str, voice: str = "slt", rate: int = 8000) -> Waveform:
    """A sentence without silence at its ends, peak 0.5, shape (samples,)."""
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed")
    return _speak(text, voice, rate)


@dataclass(frozen=True)
class Call:
    """A constructed call: (speakers, samples) and what is true of it.

    Attributes:
        truth: (start, end, speaker) in seconds, in order of time.
    """

    waveform: Waveform
    rate: int
    truth: tuple[tuple[float, float, int], ...]


def make_call(
    voices: Sequence[str] = ("rms", "slt"),
    rate: int = 8000,
    pause: float = 1.0,
    turns: int = 6,
) -> Call:
    """Voices that talk in turn, each on a row of its own; `pause` seconds between turns."""
    parts = []
    position = pause
    for index in range(turns):
        speaker = index % len(voices)
        samples = speak(SENTENCES[index % len(SENTENCES)], voices[speaker], rate)
        parts.append((position, samples, speaker))
        position += len(samples) / rate + pause
    waveform = np.zeros((len(voices), round(position * rate)), np.float32)
    truth = []
    for start, samples, speaker in parts:
        first = round(start * rate)
        waveform[speaker, first : first + len(samples)] += samples
        truth.append((first / rate, (first + len(samples)) / rate, speaker))
    return Call(waveform, rate, tuple(truth))


def telephone(waveform: Waveform, rate: int) -> Waveform:
    """Band-limited to 300 to 3400 Hz and through G.711 mu-law, at the same rate."""
    spectrum = np.fft.rfft(waveform)
    frequencies = np.fft.rfftfreq(waveform.shape[-1], 1 / rate)
    spectrum[..., (frequencies < 300) | (frequencies > 3400)] = 0
    band = np.fft.irfft(spectrum, waveform.shape[-1])
    squeezed = np.sign(band) * np.log1p(255 * np.abs(np.clip(band, -1, 1))) / np.log(256)
    coded = np.round(squeezed * 127) / 127
    opened: Waveform = np.sign(coded) * np.expm1(np.abs(coded) * np.log(256)) / 255
    return np.asarray(opened, dtype=np.float32)
