"""Crops of labelled clips: which parts of which recordings the label heads learn from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from pydantic import ConfigDict

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.audio.telephone import Codec, over_the_line
from speechmeta.training.augment import add_noise, add_reverb, non_speech
from speechmeta.training.manifest import Clip

_CODECS: list[Codec] = ["none", "mulaw", "alaw", "gsm"]


class Waves(Protocol):
    """Where decoded clips come from."""

    def wave(self, clip: Clip) -> np.ndarray: ...


@dataclass(frozen=True)
class CropOptions:
    """How many crops, how long, and how they sound.

    Attributes:
        per_clip: by source, crops a clip; 1 where not named.
        per_speaker: by source, most clips of a speaker.
        per_source: by source, most clips.
        seniors: crops of a clip of somebody over 60, of whom there are few.
        emotion_only: sources of which only clips with an emotion are used.
        made_up: crops without speech that no microphone has heard.
        lengths: (share, shortest, longest) seconds.
        changed: probability of telephone, noise or room.
        no_background: sources without speech that are not background either: voices.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    per_clip: Mapping[str, int] = field(default_factory=dict)
    per_speaker: Mapping[str, int] = field(default_factory=dict)
    per_source: Mapping[str, int] = field(default_factory=dict)
    seniors: int = 2
    emotion_only: Sequence[str] = ("ravdess", "savee")
    made_up: int = 150
    lengths: Sequence[tuple[float, float, float]] = (
        (0.15, 0.6, 1.6), (0.72, 2.0, 4.5), (0.08, 4.5, 10.0), (0.05, 10.0, 25.0),
    )  # fmt: skip
    changed: float = 0.6
    no_background: Sequence[str] = ("emogator-bursts",)


@dataclass(frozen=True)
class Crop:
    """A part of a clip.

    Attributes:
        clip: place among the clips; None for made-up audio without speech.
        seconds: most seconds; a clip may be shorter.
        seed: of where it starts and of how it sounds.
    """

    clip: int | None
    seconds: float
    seed: int

    def name(self, clips: Sequence[Clip]) -> str:
        """What its statistics are stored under."""
        audio = None if self.clip is None else str(clips[self.clip].audio)
        return json.dumps([audio, round(self.seconds, 2), self.seed])


def plan_crops(clips: Sequence[Clip], options: CropOptions, seed: int) -> list[Crop]:
    """Crops in random order, so that any first part of them is a fair sample."""
    rng = np.random.default_rng(seed)
    chosen: list[int | None] = [None] * options.made_up
    of_speaker: Counter[tuple[str, str]] = Counter()
    of_source: Counter[str] = Counter()
    for place in map(int, rng.permutation(len(clips))):
        clip = clips[place]
        source, speaker = clip.dataset, (clip.dataset, clip.speaker or str(clip.audio))
        if source in options.emotion_only and "Emotion" not in clip.labels:
            continue
        if of_source[source] >= options.per_source.get(source, len(clips)):
            continue
        if of_speaker[speaker] >= options.per_speaker.get(source, len(clips)):
            continue
        of_source[source] += 1
        of_speaker[speaker] += 1
        count = options.per_clip.get(source, 1)
        if clip.labels.get("Age") == "Senior":
            count = max(count, options.seniors)
        chosen += [place] * count
    shares = np.array([share for share, _, _ in options.lengths])
    crops = []
    for at in rng.permutation(len(chosen)):
        _, low, high = options.lengths[int(rng.choice(len(shares), p=shares / shares.sum()))]
        crops.append(Crop(chosen[at], float(rng.uniform(low, high)), int(rng.integers(2**31))))
    return crops


def crop_wave(
    crop: Crop, clips: Sequence[Clip], store: Waves, noises: Sequence[Clip], changed: float
) -> np.ndarray:
    """The crop's audio (samples,), as its seed makes it sound."""
    rng = np.random.default_rng(crop.seed)
    wanted = int(crop.seconds * SAMPLE_RATE)
    if crop.clip is None:
        wave = non_speech(rng, crop.seconds)
    else:
        whole = store.wave(clips[crop.clip])
        # A short crop might fall into a pause: the loudest of three is taken.
        starts = rng.integers(0, max(1, len(whole) - wanted + 1), size=3)
        parts = [whole[start : start + wanted] for start in starts]
        wave = max(parts, key=lambda part: float(np.mean(part**2)))
    return _sounded(wave, rng, store, noises, changed)


def _sounded(
    wave: np.ndarray,
    rng: np.random.Generator,
    store: Waves,
    noises: Sequence[Clip],
    changed: float,
) -> np.ndarray:
    wave = wave * 10 ** (rng.uniform(-20, 3) / 20)
    if rng.random() < changed:
        if rng.random() < 0.2:
            wave = add_reverb(wave, rng)
        if noises and rng.random() < 0.4:
            noise = store.wave(noises[int(rng.integers(len(noises)))])
            if rng.random() < 0.3 or not len(noise):
                noise = rng.standard_normal(len(wave)).astype(np.float32)
            start = int(rng.integers(len(noise)))
            wave = add_noise(wave, np.roll(noise, -start), rng.uniform(5, 30))
        wave = np.clip(wave, -1.0, 1.0).astype(np.float32)
        if rng.random() < 0.6:
            codec = _CODECS[int(rng.integers(len(_CODECS)))]
            band = (rng.uniform(150, 320), rng.uniform(3200, 3800))
            wave = over_the_line(wave, SAMPLE_RATE, codec, band)
    return np.clip(wave, -1.0, 1.0).astype(np.float32)
