"""A start without labels: the encoder tells what was hidden from it.

BEST-RQ (Chiu et al., arXiv 2202.01855): spans of the spectrogram are replaced by noise, and the
encoder names the code that a fixed random projection gives the hidden part. Nothing but audio is
needed, and no second model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from speechmeta.errors import UsageError
from speechmeta.models.speechllm.conformer import (
    LogMelConformerConfig,
    LogMelConformerModel,
    log_mel,
    mean_and_spread,
)
from speechmeta.models.speechllm.modeling_speechllm import conv_lengths

_CODES, _CODE_SIZE = 1024, 16
_START_SHARE, _SPAN = 0.01, 40
"""Share of spectrogram frames where a hidden span begins, and its frames of 10 ms."""
_FIRST, _STACKED = 2, 4
"""An encoder frame hears seven frames of the spectrogram; the code is of the middle four."""


class MaskedPrediction(nn.Module):
    """The codes of spectrograms, and the head that guesses them; only the head learns.

    Args:
        encoder: a `LogMelConformerModel`, which learns beside it.

    Raises:
        UsageError: another encoder, which has no spectrogram to hide.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        if not isinstance(encoder, LogMelConformerModel):
            raise UsageError(
                f"optim.masked_first does not work with {encoder.config.model_type}",
                f"train a {LogMelConformerConfig.model_type}, or leave it out",
            )
        bins = encoder.config.num_mel_bins
        self.kernels, self.strides = encoder.config.conv_kernel, encoder.config.conv_stride
        # Every process and every resumed run has to mean the same codes.
        generator = torch.Generator().manual_seed(0)
        projection = torch.empty(_STACKED * bins, _CODE_SIZE)
        nn.init.xavier_uniform_(projection, generator=generator)
        codes = torch.randn(_CODES, _CODE_SIZE, generator=generator)
        self.projection: torch.Tensor
        self.codes: torch.Tensor
        self.register_buffer("projection", projection)
        self.register_buffer("codes", functional.normalize(codes, dim=-1))
        self.head = nn.Linear(encoder.config.hidden_size, _CODES)

    def targets(self, bands: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """The code at every encoder frame.

        Args:
            bands: (batch, frames, bins), as `log_mel` gives them; `real` (batch, frames).

        Returns:
            (batch, encoder frames) long.
        """
        # In bfloat16 many codes are equally near.
        with torch.autocast(bands.device.type, enabled=False):
            mean, spread = mean_and_spread(bands, real)[:, None].chunk(2, -1)
            parts = self._stacked((bands - mean) / spread)
            found = functional.normalize(parts.flatten(2) @ self.projection, dim=-1)
            return (found @ self.codes.T).argmax(-1)

    def forward(
        self, encoder: LogMelConformerModel, waves: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Mean cross entropy of the codes of hidden frames.

        Args:
            waves: (batch, samples) at 16 kHz; `mask` (batch, samples) is 1 where they are real.
        """
        with torch.no_grad():
            bands = log_mel(waves, encoder.config.num_mel_bins)
            count = bands.shape[1]
            frames = conv_lengths(mask.long().sum(-1), self.kernels[:1], self.strides[:1])
            real = torch.arange(count, device=waves.device) < frames[:, None]
            begins = torch.rand(real.shape, device=waves.device) < _START_SHARE
            # One begins in every clip.
            first = (torch.rand(len(waves), device=waves.device) * frames).long()
            begins[torch.arange(len(waves)), first] = True
            spans = functional.pad(begins.float()[:, None], (_SPAN - 1, 0))
            hidden = functional.max_pool1d(spans, _SPAN, 1)[:, 0].bool()
            wanted = self.targets(bands, real)
            asked = self._stacked((hidden & real)[..., None]).flatten(2).all(-1)
        heard = encoder(waves, attention_mask=mask, masked_frames=hidden).last_hidden_state
        guessed = self.head(heard[asked].float())
        # A clip may be too short for a whole code to be hidden.
        return functional.cross_entropy(guessed, wanted[asked], reduction="sum") / max(
            1, len(guessed)
        )

    def _stacked(self, frames: torch.Tensor) -> torch.Tensor:
        """(batch, frames, values) to (batch, encoder frames, stacked, values)."""
        stride = self.strides[1] * self.strides[2]
        windows = frames[:, _FIRST:].unfold(1, _STACKED, stride).transpose(2, 3)
        # The encoder's last frame hears one more frame than its code needs.
        return windows[:, : conv_lengths(frames.shape[1], self.kernels[1:], self.strides[1:])]
