"""What processors take as audio: one waveform or several, arrays or tensors, at 16 kHz."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.errors import AudioError, UsageError

Waveform: TypeAlias = npt.NDArray[np.floating] | torch.Tensor | Sequence[float]
"""(samples,) or (1, samples)."""


def read_waveforms(
    audio: Waveform | Sequence[Waveform] | None, sampling_rate: int | None
) -> list[npt.NDArray[np.float32]]:
    """The waveforms (samples,) that a processor was called with.

    Raises:
        AudioError: there is none, or the rate is another.
    """
    if audio is None:
        raise AudioError("no audio was given", "pass audio=waveform, sampling_rate=16000")
    if sampling_rate != SAMPLE_RATE:
        raise AudioError(
            f"the sampling rate is {sampling_rate}, the model takes {SAMPLE_RATE} Hz",
            "resample with speechmeta.audio.loading.resample and pass sampling_rate=16000",
        )
    if isinstance(audio, (list, tuple)) and (not audio or np.ndim(audio[0]) > 0):
        return [_one_channel(item) for item in audio]
    return [_one_channel(cast(Waveform, audio))]


def _one_channel(waveform: Waveform) -> npt.NDArray[np.float32]:
    values = waveform.cpu() if isinstance(waveform, torch.Tensor) else waveform
    wave = np.asarray(values, dtype=np.float32)
    return wave[0] if wave.ndim == 2 and len(wave) == 1 else wave


def checked_waveform(waveform: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """One waveform (samples,) as a model can hear it.

    Raises:
        AudioError: it is empty, has several channels, or holds NaN.
    """
    wave = np.asarray(waveform, dtype=np.float32)
    if wave.ndim != 1:
        raise AudioError(
            f"the audio has shape {wave.shape}",
            "give one channel as (samples,); mix or split channels first",
        )
    if not wave.size:
        raise AudioError("the audio has no samples", "give at least one sample")
    if not np.isfinite(wave).all():
        raise AudioError("the audio holds NaN or infinite samples", "repair the file")
    return wave


def refuse_others(given: Mapping[str, object], return_tensors: str, known: str) -> None:
    """Raises UsageError for arguments that a processor does not take."""
    unknown = [*given, *([] if return_tensors == "pt" else ["return_tensors"])]
    if unknown:
        raise UsageError(
            f"the processor does not take {', '.join(unknown)}",
            f"it takes audio, sampling_rate, {known} and return_tensors='pt'",
        )


__all__ = ["SAMPLE_RATE", "Waveform", "checked_waveform", "read_waveforms", "refuse_others"]
