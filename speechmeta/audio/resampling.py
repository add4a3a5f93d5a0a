"""Change of sample rate with a steep low-pass filter, for whole waveforms and for streams.

torchaudio's windowed-sinc filter serves the ordinary ratios (8000, 11025, 44100, 48000 to
16000 ...). It holds one filter per phase, so for odd ratios (44099 to 16000 would need 16000
filters of 180000 taps) soxr's multi-stage resampler is used.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

FloatArray = npt.NDArray[np.float32]

MAX_TORCHAUDIO_FACTOR = 1000
"""Largest term of the reduced ratio that torchaudio's filter bank is built for."""

# torchaudio's counterpart of the "kaiser_best" filter: 64 zero crossings, pass band up to
# 94.8 % of the lower Nyquist frequency.
LOWPASS_WIDTH = 64
ROLLOFF = 0.9475937167399596
KAISER_BETA = 14.769656459379492


def _reduced(from_rate: int, to_rate: int) -> tuple[int, int]:
    divisor = math.gcd(from_rate, to_rate)
    return from_rate // divisor, to_rate // divisor


def _uses_torchaudio(from_rate: int, to_rate: int) -> bool:
    return max(_reduced(from_rate, to_rate)) <= MAX_TORCHAUDIO_FACTOR


@lru_cache(maxsize=16)
def _torch_resampler(from_rate: int, to_rate: int) -> torch.nn.Module:
    from torchaudio.transforms import Resample

    resampler: torch.nn.Module = Resample(
        from_rate,
        to_rate,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=LOWPASS_WIDTH,
        rolloff=ROLLOFF,
        beta=KAISER_BETA,
    )
    return resampler


def resample(waveform: npt.ArrayLike, from_rate: int, to_rate: int) -> FloatArray:
    """Resamples along the last axis.

    Args:
        waveform: float samples, shape (..., samples).
        from_rate: its rate in Hz.
        to_rate: the wanted rate in Hz.

    Returns:
        float32 array of shape (..., ceil(samples * to_rate / from_rate)).
    """
    samples = np.ascontiguousarray(waveform, dtype=np.float32)
    if from_rate == to_rate or samples.shape[-1] == 0:
        return samples
    length = -(-samples.shape[-1] * to_rate // from_rate)
    if _uses_torchaudio(from_rate, to_rate):
        import torch

        with torch.inference_mode():
            result: FloatArray = _torch_resampler(from_rate, to_rate)(
                torch.from_numpy(samples)
            ).numpy()
        return result[..., :length]
    import soxr

    rows = samples.reshape(-1, samples.shape[-1])
    converted = np.stack([soxr.resample(row, from_rate, to_rate, quality="VHQ") for row in rows])
    return _fit(converted, length).reshape(*samples.shape[:-1], length)


def _fit(rows: FloatArray, length: int) -> FloatArray:
    """Cuts or zero-pads the last axis: soxr rounds the length to nearest, torchaudio up."""
    missing = length - rows.shape[-1]
    return np.pad(rows, ((0, 0), (0, missing))) if missing > 0 else rows[:, :length]


class StreamResampler:
    """Resamples blocks as they come; the joined result equals `resample` of the whole.

    Memory is bounded: only the filter's reach is kept between blocks.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int) -> None:
        self._down, self._up = _reduced(from_rate, to_rate)
        self._rates = from_rate, to_rate
        self._received = 0
        self._sent = 0
        self._identity = from_rate == to_rate
        self._soxr = None
        if not self._identity and not _uses_torchaudio(from_rate, to_rate):
            import soxr

            self._soxr = soxr.ResampleStream(
                from_rate, to_rate, channels, dtype="float32", quality="VHQ"
            )
        # Input samples that the filter sees on either side, in whole periods of the ratio so
        # that every block starts in the same phase.
        reach = math.ceil(LOWPASS_WIDTH * self._down / min(self._down, self._up) / ROLLOFF)
        self._context = (math.ceil(reach / self._down) + 1) * self._down
        self._held = np.zeros((channels, 0), np.float32)
        self._before = 0

    def push(self, block: FloatArray, last: bool = False) -> FloatArray:
        """Takes (channels, n) samples and returns those (channels, m) that are final now."""
        self._received += block.shape[-1]
        if self._identity:
            return block
        if self._soxr is not None:
            done: FloatArray = self._soxr.resample_chunk(np.ascontiguousarray(block.T), last).T
            self._sent += done.shape[-1]
            if last:
                done = _fit(done, done.shape[-1] + self._total() - self._sent)
            return np.ascontiguousarray(done, dtype=np.float32)
        self._held = np.concatenate([self._held, block], axis=1)
        available = self._held.shape[1] - self._before
        ready = available if last else max(0, available - self._context) // self._down * self._down
        if ready == 0:
            return self._held[:, :0]
        converted = resample(self._held, *self._rates)
        start = self._before // self._down * self._up
        count = self._total() - self._sent if last else ready // self._down * self._up
        keep_from = max(0, self._before + ready - self._context)
        self._held = self._held[:, keep_from:]
        self._before = self._before + ready - keep_from
        self._sent += count
        return converted[:, start : start + count]

    def _total(self) -> int:
        return -(-self._received * self._up // self._down)
