"""Short clips in every bad shape that recordings come in, the same for the same seed.

Each is a file's bytes, as a caller would send it: a window of a real recording, or none, through
one of `CONDITIONS`. Nothing is written to the disk.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from speechmeta.audio.loading import load_audio, resample

Wave = npt.NDArray[np.float32]

RATE = 16_000
SECONDS = (0.3, 3.0)
"""Shortest and longest window of a recording."""

ODD_RATES = (4000, 6000, 7350, 8012, 11025, 12345, 22050, 32000, 37800, 44100, 48000, 96000)
CODECS = ("mulaw", "alaw", "gsm", "amr")


@dataclass(frozen=True)
class HardClip:
    """One clip that is still to be made.

    Attributes:
        name: its number.
        condition: one of `CONDITIONS`.
        source: the recording that its window is of.
    """

    name: str
    condition: str
    source: Path

    def file(self) -> bytes:
        """The clip as a file."""
        draw = random.Random(f"{self.name} {self.condition}")
        wave = _window(_recording(self.source), draw)
        return CONDITIONS[self.condition](wave, draw)


def hard_clips(sources: Sequence[Path], count: int, seed: int) -> list[HardClip]:
    """`count` clips: the conditions in turn, recordings drawn by the seed.

    Raises:
        ValueError: there are no recordings.
    """
    if not sources:
        raise ValueError("there are no recordings to make clips of")
    draw = random.Random(seed)
    names = list(CONDITIONS)
    return [
        HardClip(f"{seed}-{number:05}", names[number % len(names)], draw.choice(sources))
        for number in range(count)
    ]


@lru_cache(maxsize=64)
def _recording(path: Path) -> Wave:
    audio = load_audio(path)
    return resample(audio.mono(), audio.sample_rate, RATE)


def _window(wave: Wave, draw: random.Random) -> Wave:
    size = min(len(wave), round(draw.uniform(*SECONDS) * RATE))
    start = draw.randint(0, len(wave) - size)
    return wave[start : start + size]


def _noise(draw: random.Random, size: int) -> Wave:
    values = np.random.default_rng(draw.getrandbits(32)).standard_normal(size)
    return values.astype(np.float32)


def _coded(wave: Wave, rate: int = RATE, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    import soundfile

    made = io.BytesIO()
    soundfile.write(made, np.clip(wave, -1, 1), rate, format=kind, subtype=subtype)
    return made.getvalue()


def _as_recorded(wave: Wave, draw: random.Random) -> bytes:
    return _coded(wave)


def _noisy(wave: Wave, draw: random.Random) -> bytes:
    power = float(np.mean(wave**2)) + 1e-8
    ratio = 10 ** (draw.uniform(-10, 20) / 10)
    return _coded(wave + _noise(draw, len(wave)) * np.float32(np.sqrt(power / ratio)))


def _cut(wave: Wave, draw: random.Random) -> bytes:
    """The end of the file is missing; the header speaks of all of it."""
    kind, subtype = draw.choice((("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")))
    whole = _coded(wave, RATE, kind, subtype)
    return whole[: max(512, round(len(whole) * draw.uniform(0.3, 0.98)))]


def _odd_rate(wave: Wave, draw: random.Random) -> bytes:
    rate = draw.choice(ODD_RATES)
    return _coded(resample(wave, RATE, rate), rate)


def _silent(wave: Wave, draw: random.Random) -> bytes:
    level = draw.choice((0.0, 1e-5, 1e-3))
    return _coded(_noise(draw, len(wave)) * np.float32(level), subtype="FLOAT")


def _clipped(wave: Wave, draw: random.Random) -> bytes:
    return _coded(wave * np.float32(draw.uniform(20, 200)))


def _telephone(wave: Wave, draw: random.Random) -> bytes:
    from speechmeta.audio.telephone import over_the_line

    codec = draw.choice(CODECS)
    heard = resample(over_the_line(wave, RATE, codec), RATE, 8000)  # type: ignore[arg-type]
    return _coded(heard, 8000, subtype={"mulaw": "ULAW", "alaw": "ALAW"}.get(codec, "PCM_16"))


def _instant(wave: Wave, draw: random.Random) -> bytes:
    return _coded(wave[: draw.randint(1, RATE // 8)])


def _no_speech(wave: Wave, draw: random.Random) -> bytes:
    times = np.arange(len(wave), dtype=np.float32) / RATE
    tone = np.sin(2 * np.pi * draw.uniform(50, 4000) * times).astype(np.float32)
    return _coded(tone * np.float32(0.3) + _noise(draw, len(wave)) * np.float32(0.05))


def _stereo(wave: Wave, draw: random.Random) -> bytes:
    quiet = wave * np.float32(draw.uniform(-1, 0.5)) + np.float32(draw.uniform(-0.2, 0.2))
    return _coded(np.stack([wave, quiet], axis=1), subtype=draw.choice(("PCM_24", "FLOAT")))


CONDITIONS: dict[str, Callable[[Wave, random.Random], bytes]] = {
    "as recorded": _as_recorded,
    "noise, -10 to 20 dB": _noisy,
    "cut file": _cut,
    "odd sample rate": _odd_rate,
    "silence": _silent,
    "clipping": _clipped,
    "telephone codec": _telephone,
    "under an eighth of a second": _instant,
    "tone and noise": _no_speech,
    "two channels, offset": _stereo,
}
"""What is done to a window, by name."""


def digest(clips: Sequence[HardClip]) -> str:
    """Says whether two runs are about the same clips."""
    text = "\n".join(f"{clip.name} {clip.condition} {clip.source.name}" for clip in clips)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
