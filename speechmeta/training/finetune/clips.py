"""Clips of manifests as a dataset: decoded when they are drawn, with fresh augmentation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from speechmeta.audio.loading import SAMPLE_RATE, load_audio
from speechmeta.errors import DatasetError, SpeechMetaError
from speechmeta.training.augment import AugmentOptions, augment
from speechmeta.training.manifest import Clip

logger = logging.getLogger(__name__)

_SHORTEST_SECONDS = 0.1


@dataclass(frozen=True)
class LoadedClip:
    """A clip and its audio as it is trained on.

    Attributes:
        clip: the manifest's row.
        wave: (samples,) float32 at 16 kHz.
    """

    clip: Clip
    wave: np.ndarray


class ClipDataset(Dataset[LoadedClip]):
    """Clips of a length that the model takes.

    Args:
        clips: what the manifests hold.
        max_seconds: longer ones are left out.
        options: how audio is changed; None leaves it as it is.

    Raises:
        DatasetError: no clip is left.
    """

    def __init__(
        self, clips: Sequence[Clip], max_seconds: float, options: AugmentOptions | None = None
    ) -> None:
        self.clips = [clip for clip in clips if _SHORTEST_SECONDS <= clip.duration <= max_seconds]
        if len(self.clips) < len(clips):
            logger.info(
                "left out %d of %d clips, which are not %g to %g seconds long",
                len(clips) - len(self.clips), len(clips), _SHORTEST_SECONDS, max_seconds,
            )  # fmt: skip
        if not self.clips:
            raise DatasetError(
                f"no clip is {_SHORTEST_SECONDS:g} to {max_seconds:g} seconds long",
                "raise data.max_seconds, or cut the recordings into turns",
            )
        self._options = options
        self._generator: np.random.Generator | None = None

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> LoadedClip:
        failure: SpeechMetaError | None = None
        for place in range(len(self.clips)):
            clip = self.clips[(index + place) % len(self.clips)]
            try:
                wave = load_audio(clip.audio).resampled(SAMPLE_RATE).mean(0)
            except SpeechMetaError as error:
                # One damaged file does not end the run: the next clip takes its place.
                logger.warning("skipped: %s", error)
                failure = error
                continue
            if self._options is not None:
                wave = augment(wave, self._rng(), self._options, [])
            return LoadedClip(clip, np.ascontiguousarray(wave, dtype=np.float32))
        raise DatasetError("none of the clips can be read", str(failure))

    def _rng(self) -> np.random.Generator:
        if self._generator is None:
            # Worker processes get different torch seeds; NumPy's would all be the same.
            self._generator = np.random.default_rng(torch.initial_seed() % 2**63)
        return self._generator
