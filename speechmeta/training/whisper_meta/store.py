"""Decoded recordings in one memory-mapped file: reading a clip costs a copy, not a decoder."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speechmeta.audio.loading import SAMPLE_RATE, load_audio
from speechmeta.errors import AudioError
from speechmeta.training.manifest import Clip

_LOG = logging.getLogger(__name__)
_FULL_SCALE = 32767


class AudioStore:
    """16 kHz mono int16 samples of many clips, one behind the other.

    Attributes:
        places: by audio path the first sample and the number of samples.
        samples: of all clips, (samples,) int16.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = json.loads((folder / "audio.json").read_text(encoding="utf-8"))
        self.places: dict[str, tuple[int, int]] = {
            name: (start, count) for name, (start, count) in index.items()
        }
        self.samples = np.memmap(folder / "audio.int16", dtype=np.int16, mode="r")

    def __contains__(self, clip: Clip) -> bool:
        return str(clip.audio) in self.places

    def wave(self, clip: Clip) -> np.ndarray:
        """A clip's samples, float32 in -1 to 1, shape (samples,)."""
        return self.part(str(clip.audio), 0, self.places[str(clip.audio)][1])

    def part(self, audio: str, start: int, count: int) -> np.ndarray:
        """`count` samples from `start` on of the clip at that path."""
        place = self.places[audio][0] + start
        return self.samples[place : place + count].astype(np.float32) / _FULL_SCALE


def build_store(clips: Sequence[Clip], folder: Path) -> AudioStore:
    """Decodes clips into `folder`, behind what it holds already.

    A clip that cannot be decoded is left out and logged.
    """
    index_file = folder / "audio.json"
    index: dict[str, tuple[int, int]] = {}
    if index_file.exists():
        store = AudioStore(folder)
        if all(clip in store for clip in clips):
            return store
        index = store.places
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "audio.int16").touch()
    place = max((start + count for start, count in index.values()), default=0)
    with (folder / "audio.int16").open("r+b") as file:
        # A run that was stopped left samples that no index names.
        file.truncate(place * 2)
        file.seek(place * 2)
        for clip in clips:
            if str(clip.audio) in index:
                continue
            try:
                wave = load_audio(clip.audio).resampled(SAMPLE_RATE).mean(0)
            except AudioError as error:
                _LOG.warning("left out %s: %s", clip.audio, error.message)
                continue
            samples = np.round(np.clip(wave, -1.0, 1.0) * _FULL_SCALE).astype(np.int16)
            file.write(samples.tobytes())
            index[str(clip.audio)] = (place, len(samples))
            place += len(samples)
    index_file.write_text(json.dumps(index), encoding="utf-8")
    return AudioStore(folder)
