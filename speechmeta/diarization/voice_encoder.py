"""A recurrent network that places voices in space: three LSTM layers over mel spectra.

The network of "Generalized End-to-End Loss for Speaker Verification" (Wan et al., 2018) in the
layout of Resemblyzer, whose published weights the package has; a projection learnt here makes its
vectors alike on every line (`recipes/speakers/`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.audio.types import FloatArray
from speechmeta.diarization.embeddings import Matrix, unit
from speechmeta.diarization.packaged import opened_network
from speechmeta.diarization.same_voice import VoiceSpread

HOP = 160
"""Samples from frame to frame: 10 ms."""
MELS = 40
TARGET_DB = -30.0
"""RMS in dB full scale to which each clip is brought: spectra go in without a logarithm."""
FEWEST_SAMPLES = 4000
"""Shorter clips are filled up with silence."""
_STEP = 5 * HOP
_SPREAD = ("share", "most", "apart")
"""Numbers of `VoiceSpread` that the file notes."""
_TOGETHER = 64


class VoiceEncoder(nn.Module):
    """Mel spectra (n, frames, 40) to unit vectors (n, size)."""

    def __init__(self, width: int = 256, size: int = 256, layers: int = 3) -> None:
        super().__init__()
        self.lstm = nn.LSTM(MELS, width, layers, batch_first=True)
        self.linear = nn.Linear(width, size)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.lstm(mels)
        return functional.normalize(torch.relu(self.linear(hidden[:, -1])), dim=-1)


def mel_frames(waves: torch.Tensor) -> torch.Tensor:
    """Waveforms (n, samples) at 16 kHz to mel spectra (n, frames, 40), brought to one level."""
    power = waves.square().mean(-1, keepdim=True)
    waves = waves * (10 ** (TARGET_DB / 20) / power.clamp(min=1e-12).sqrt())
    result: torch.Tensor = _mel()(waves).transpose(1, 2)
    return result


@lru_cache(maxsize=1)
def _mel() -> nn.Module:
    from torchaudio.transforms import MelSpectrogram

    # As librosa has it by default, whose spectra the weights were learnt on.
    mel: nn.Module = MelSpectrogram(
        SAMPLE_RATE,
        n_fft=400,
        hop_length=HOP,
        n_mels=MELS,
        power=2.0,
        norm="slaney",
        mel_scale="slaney",
        pad_mode="constant",
    )
    return mel


class VoiceEmbedder:
    """Embeds clips by the packaged voice encoder.

    Args:
        encoder: gives vectors. mean: (size,) of many voices, subtracted before the projection.
        matrix: (size, smaller), directions in which voices differ.
        distance: cosine distance from which two clusters are two speakers.
        spread: of its vectors, which tells how many speakers there are; None for `distance` alone.
    """

    def __init__(
        self,
        encoder: VoiceEncoder,
        mean: Matrix,
        matrix: Matrix,
        distance: float,
        spread: VoiceSpread | None = None,
    ) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.mean, self.matrix, self.distance, self.spread = mean, matrix, distance, spread

    @classmethod
    def load(cls, file: Path) -> Self:
        """From the file that `save` writes.

        Raises:
            ModelError: there is no such file, or something else is in it.
        """
        with opened_network(file, "voice encoder") as (tensors, notes):
            distance = float(notes["distance"])
            mean, matrix = tensors.pop("mean"), tensors.pop("matrix")
            spread = None
            if "between" in tensors:
                between = tensors.pop("between").double().numpy()
                spread = VoiceSpread(between, **{name: float(notes[name]) for name in _SPREAD})
            encoder = VoiceEncoder()
            encoder.load_state_dict(tensors)
        return cls(encoder, mean.double().numpy(), matrix.double().numpy(), distance, spread)

    def save(self, file: Path, notes: Mapping[str, str]) -> None:
        """The encoder in half precision, which moves no cosine by a thousandth.

        Args:
            notes: of origin and licence, kept in the file.
        """
        from safetensors.torch import save_file

        tensors = {name: value.half() for name, value in self.encoder.state_dict().items()}
        tensors["mean"] = torch.from_numpy(self.mean).float()
        tensors["matrix"] = torch.from_numpy(np.ascontiguousarray(self.matrix)).float()
        numbers = {"distance": f"{self.distance:.4f}"}
        if self.spread is not None:
            tensors["between"] = torch.from_numpy(self.spread.between).float()
            numbers |= {name: f"{getattr(self.spread, name):.4f}" for name in _SPREAD}
        save_file(tensors, str(file), {**notes, **numbers})

    def embed(self, clips: Sequence[FloatArray]) -> Matrix:
        """Unit vectors (clips, size) of mono clips (samples,) at 16 kHz."""
        return self.project(self.encode(clips))

    def project(self, vectors: Matrix) -> Matrix:
        """The encoder's vectors (clips, size) to those that are compared."""
        return unit((vectors - self.mean) @ self.matrix)

    @torch.inference_mode()
    def encode(self, clips: Sequence[FloatArray]) -> Matrix:
        """Vectors (clips, size) of the encoder itself."""
        lengths = [max(FEWEST_SAMPLES, len(clip) // _STEP * _STEP) for clip in clips]
        result = np.zeros((len(clips), self.encoder.linear.out_features))
        # Those of one length together: padding would be heard.
        for length in sorted(set(lengths)):
            same = [index for index, own in enumerate(lengths) if own == length]
            for first in range(0, len(same), _TOGETHER):
                part = same[first : first + _TOGETHER]
                waves = np.zeros((len(part), length), np.float32)
                for row, index in enumerate(part):
                    clip = clips[index][:length]
                    waves[row, : len(clip)] = clip
                vectors = self.encoder(mel_frames(torch.from_numpy(waves)))
                result[part] = vectors.double().numpy()
        return result
