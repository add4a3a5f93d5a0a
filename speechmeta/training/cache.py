"""All audio of a training run, decoded once into one 16-bit file."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speechmeta.audio.loading import SAMPLE_RATE, load_audio
from speechmeta.errors import SpeechMetaError
from speechmeta.training.manifest import Clip

logger = logging.getLogger(__name__)


class AudioCache:
    """Waveforms of clips as 16 kHz mono float32, read from a memory-mapped file.

    Decoding Opus takes longer than a training step on it; 25 hours take 3 GB.

    Args:
        clips: what to hold, in order.
        folder: where the file is kept; it is made anew when the list of clips changes.
    """

    def __init__(self, clips: Sequence[Clip], folder: Path) -> None:
        names = "\n".join(f"{clip.audio}\t{clip.duration}" for clip in clips)
        stem = folder / hashlib.sha256(names.encode()).hexdigest()[:16]
        self.samples_path, index_path = stem.with_suffix(".pcm"), stem.with_suffix(".npy")
        if not index_path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            self._write(clips, index_path)
        self.offsets = np.load(index_path)
        self._samples: np.ndarray | None = None

    def _write(self, clips: Sequence[Clip], index_path: Path) -> None:
        offsets = [0]
        partial = self.samples_path.with_suffix(".partial")
        with partial.open("wb") as file:
            for number, clip in enumerate(clips):
                try:
                    wave = load_audio(clip.audio).resampled(SAMPLE_RATE).mean(0)
                except SpeechMetaError as error:
                    # The clip stays in its place with no samples, and the run says so once.
                    logger.warning("left out: %s", error)
                    wave = np.zeros(0, np.float32)
                pcm = np.clip(np.round(wave * 32767), -32768, 32767).astype("<i2")
                file.write(pcm.tobytes())
                offsets.append(offsets[-1] + len(pcm))
                if number % 2000 == 1999:
                    logger.info("decoded %d of %d clips", number + 1, len(clips))
        os.replace(partial, self.samples_path)
        np.save(index_path, np.asarray(offsets, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def seconds(self, index: int) -> float:
        """Duration of a clip in seconds."""
        return float(self.offsets[index + 1] - self.offsets[index]) / SAMPLE_RATE

    def __getitem__(self, index: int) -> np.ndarray:
        if self._samples is None:
            # Opened late, so that worker processes map the file by themselves.
            self._samples = np.memmap(self.samples_path, dtype="<i2", mode="r")
        pcm = self._samples[self.offsets[index] : self.offsets[index + 1]]
        return pcm.astype(np.float32) / 32767
