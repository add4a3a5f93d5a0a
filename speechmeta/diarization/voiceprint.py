"""What tells voices apart without a neural network: the shape of the spectrum, on average.

Means and standard deviations over time of mel-frequency cepstra (Davis and Mermelstein,
1980), through a linear discriminant trained on many speakers
(`speechmeta.training.speakers`). It needs no checkpoint's encoder, which is trained to hear
words and forgets who says them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from speechmeta.audio.types import FloatArray
from speechmeta.diarization.embeddings import Matrix, SpeakerProjection

SAMPLE_RATE = 16_000
CEPSTRA = 24
MELS = 40
HIGHEST_HZ = 3800.0
"""What a telephone lets through, so that recordings of every rate are described alike."""

RANGE_DB = 60.0
"""Mel bands further below a clip's loudest are raised to this, so that silence is alike."""

LOUD_SHARE = 0.7
"""Share of a clip's frames, the loudest, that counts."""


class VoiceprintEmbedder:
    """Embeds clips by their cepstra.

    Args:
        projection: trained on `cepstral_statistics`.
    """

    def __init__(self, projection: SpeakerProjection) -> None:
        self.projection = projection
        self.distance = projection.distance

    def embed(self, clips: Sequence[FloatArray]) -> Matrix:
        """Unit vectors (clips, size) of mono clips (samples,) at 16 kHz."""
        return self.projection.apply(cepstral_statistics(clips))


def cepstral_statistics(clips: Sequence[FloatArray]) -> Matrix:
    """(clips, 47): means of all cepstra but the first, which is the level, and standard
    deviations of all, over the louder frames of each clip."""
    return np.stack([_statistics(clip) for clip in clips])


@torch.inference_mode()
def _statistics(clip: FloatArray) -> Matrix:
    mel, cosine, shortest = _transforms()
    wave = torch.from_numpy(np.ascontiguousarray(clip, dtype=np.float32))
    if len(wave) < shortest:
        wave = torch.nn.functional.pad(wave, (0, shortest - len(wave)))
    levels = 10 * torch.log10(mel(wave).clamp(min=1e-12))
    levels = levels.clamp(min=float(levels.max()) - RANGE_DB)
    loudness = levels.mean(0)
    count = max(1, round(LOUD_SHARE * levels.shape[1]))
    loudest = loudness.topk(count).indices
    cepstra = cosine.T @ levels[:, loudest]
    means = cepstra.mean(1)[1:]
    spreads = (cepstra - cepstra.mean(1, keepdim=True)).square().mean(1).sqrt()
    result: Matrix = torch.cat([means, spreads]).double().numpy()
    return result


@lru_cache(maxsize=1)
def _transforms() -> tuple[torch.nn.Module, torch.Tensor, int]:
    from torchaudio.functional import create_dct
    from torchaudio.transforms import MelSpectrogram

    window = 400
    mel = MelSpectrogram(
        SAMPLE_RATE,
        n_fft=512,
        win_length=window,
        hop_length=160,
        n_mels=MELS,
        f_min=60.0,
        f_max=HIGHEST_HZ,
        center=False,
    )
    return mel, create_dct(CEPSTRA, MELS, norm="ortho"), 512
