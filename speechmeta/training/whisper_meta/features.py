"""Whisper's log-mel features of clips of any length."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from speechmeta.audio.loading import SAMPLE_RATE

if TYPE_CHECKING:
    import torch

SAMPLES_PER_FRAME = 320
"""16 kHz samples of one encoder frame (20 ms): two hops of the log-mel features."""
PADDED_SAMPLES = 480_000
"""Thirty seconds, which the published Whisper pads everything to."""


@lru_cache(maxsize=2)
def _filters(mel_bins: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch
    from transformers import WhisperFeatureExtractor

    filters = WhisperFeatureExtractor(feature_size=mel_bins).mel_filters
    return torch.from_numpy(np.asarray(filters.T)).float(), torch.hann_window(400)


def log_mel(wave: np.ndarray, mel_bins: int = 80) -> torch.Tensor:
    """Whisper's features of one waveform (samples,), 16 kHz; shape (mel, samples // 160).

    The floor lies 8 (a factor of 10^8) below the loudest bin of this waveform.
    """
    import torch

    filters, window = _filters(mel_bins)
    spectrum = torch.stft(torch.from_numpy(wave), 400, 160, window=window, return_complex=True)[
        ..., :-1
    ]
    mel = (filters @ spectrum.abs().square()).clamp(min=1e-10).log10()
    return (torch.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0


def padded_wave(wave: np.ndarray, samples: int = PADDED_SAMPLES) -> np.ndarray:
    """The waveform followed by silence up to this many samples, or its first ones."""
    padded = np.zeros(samples, np.float32)
    padded[: len(wave)] = wave[:samples]
    return padded


def with_silence(wave: np.ndarray, seconds: float, most: int = PADDED_SAMPLES) -> np.ndarray:
    """The waveform with silence behind it, cut to whole encoder frames and `most` samples."""
    silence = np.zeros(int(seconds * SAMPLE_RATE) + SAMPLES_PER_FRAME - 1, np.float32)
    longer = np.concatenate([wave, silence])[:most]
    return longer[: len(longer) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME]


def batch_features(mels: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of several clips as one batch, and the mask of their encoder frames.

    Returns:
        (batch, mel, frames * 2) padded with 0.0, and (batch, frames) bool.
    """
    import torch

    longest = max(mel.shape[1] for mel in mels)
    features = torch.zeros(len(mels), mels[0].shape[0], longest)
    mask = torch.zeros(len(mels), longest // 2, dtype=torch.bool)
    for row, mel in enumerate(mels):
        features[row, :, : mel.shape[1]] = mel
        mask[row, : mel.shape[1] // 2] = True
    return features, mask
