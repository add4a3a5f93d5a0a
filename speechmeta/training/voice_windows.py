"""Short stretches of many speakers, as they are and from the other end of a telephone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from speechmeta.audio.loading import SAMPLE_RATE, load_audio
from speechmeta.audio.telephone import Codec, over_the_line
from speechmeta.audio.types import FloatArray
from speechmeta.training.manifest import Clip

LEVEL = 0.06
"""RMS to which every recording is brought before noise is added."""
LINES: tuple[Codec, ...] = ("mulaw", "gsm", "none", "alaw", "mulaw", "amr")
"""Codecs of the telephone, drawn alike."""
_STEP = SAMPLE_RATE // 100
_SPEECH_SHARE = 0.7


@dataclass(frozen=True)
class VoiceWindow:
    """
    Attributes:
        source, speaker: of the recording. telephone: whether it went over a line.
        wave: (samples,) at 16 kHz.
    """

    source: str
    speaker: str
    telephone: bool
    wave: FloatArray

    @property
    def line(self) -> str:
        """The source and how it was heard: what is alike there is no voice."""
        return f"{self.source} {'over a telephone' if self.telephone else 'as it is'}"


def decode(clip: Clip) -> FloatArray:
    """A clip's waveform (samples,) at 16 kHz from its file."""
    wave: FloatArray = load_audio(clip.audio).resampled(SAMPLE_RATE).mean(0)
    return wave


def speaker_windows(
    clips: Sequence[Clip],
    seconds: float,
    each: int,
    seed: int = 0,
    read: Callable[[Clip], FloatArray] = decode,
) -> Iterator[VoiceWindow]:
    """Yields at most `each` windows of a speaker as they are, and as many over a telephone.

    Every recording of a telephone has a codec of its own, most are cut to a band, and to two of
    five recordings white noise is added, 15 to 40 dB below.

    Args:
        seconds: length of a window; recordings that are shorter give none.
        read: gives a clip's waveform (samples,) at 16 kHz.
    """
    random = np.random.default_rng(seed)
    by_speaker: dict[tuple[str, str], list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.speech and clip.speaker is not None:
            by_speaker[clip.dataset, clip.speaker].append(clip)
    samples = round(seconds * SAMPLE_RATE)
    for (source, speaker), own in sorted(by_speaker.items()):
        waves = [wave for wave in map(read, own) if len(wave) >= samples]
        for telephone in (False, True):
            heard = [_heard(wave, telephone, random) for wave in waves]
            places = [(wave, start) for wave in heard for start in _speech_at(wave, samples)]
            for index in random.permutation(len(places))[:each]:
                wave, start = places[int(index)]
                yield VoiceWindow(source, speaker, telephone, wave[start : start + samples])


def _heard(wave: FloatArray, telephone: bool, random: np.random.Generator) -> FloatArray:
    level = float(np.sqrt(np.square(wave).mean())) + 1e-6
    wave = (wave * (LEVEL / level)).astype(np.float32)
    if telephone:
        codec = LINES[int(random.integers(len(LINES)))]
        band = (random.uniform(150, 320), random.uniform(3300, 3800))
        wave = over_the_line(wave, SAMPLE_RATE, codec, band if random.random() < 0.8 else None)
    if random.random() < 0.4:
        noise = random.standard_normal(len(wave)) * LEVEL * 10 ** (-random.uniform(15, 40) / 20)
        wave = (wave + noise).astype(np.float32)
    return wave


def _speech_at(wave: FloatArray, samples: int) -> list[int]:
    """Where windows of `samples` begin that hold little pause, which says nothing of a voice."""
    power = np.square(wave[: len(wave) // _STEP * _STEP]).reshape(-1, _STEP).mean(1)
    sums = np.concatenate([[0], np.cumsum(power > 0.03 * np.percentile(power, 90))])
    starts = np.arange(0, len(wave) - samples + 1, samples // 2)
    first, last = starts // _STEP, np.minimum((starts + samples) // _STEP, len(power))
    share = (sums[last] - sums[first]) / np.maximum(1, last - first)
    return [int(start) for start in starts[share > _SPEECH_SHARE]]
