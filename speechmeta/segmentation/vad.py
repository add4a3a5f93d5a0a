"""Speech probability of every 32 ms of every channel, by Silero VAD at 8 or 16 kHz.

The weights come from the `silero-vad` package. Its TorchScript model takes one window a
call; here the convolutions run over all windows of a block and of all channels at once and
only the LSTM runs in order, which gives the same probabilities many times faster.
"""

from __future__ import annotations

import importlib.util
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from speechmeta.audio.types import FloatArray
from speechmeta.errors import ModelError, UsageError

VAD_RATES = (8000, 16000)
"""Rates in Hz for which Silero VAD has weights of its own."""

WINDOW_SECONDS = 0.032
"""Length of one window, the same at both rates (256 or 512 samples)."""

_CHUNK_WINDOWS = 512
_WARM_UP_WINDOWS = 32


def vad_rate(sample_rate: int) -> int:
    """The rate in Hz at which a recording of `sample_rate` is searched for speech.

    Telephone recordings stay at 8 kHz, where Silero has weights trained on telephone
    bandwidth; everything above is resampled to 16 kHz.
    """
    return 8000 if sample_rate <= 8000 else 16000


class _Network(nn.Module):
    """Silero VAD's network (its TorchScript graph, version 6) over many windows at a time."""

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.window = round(WINDOW_SECONDS * rate)
        self.context = self.window // 8
        self.filter = self.window // 2
        bins = self.filter // 2 + 1
        self.stft = nn.Conv1d(1, 2 * bins, self.filter, stride=self.filter // 2, bias=False)
        self.encoder = nn.ModuleList(
            [
                nn.Conv1d(bins, 128, 3, stride=1, padding=1),
                nn.Conv1d(128, 64, 3, stride=2, padding=1),
                nn.Conv1d(64, 64, 3, stride=2, padding=1),
                nn.Conv1d(64, 128, 3, stride=1, padding=1),
            ]
        )
        self.rnn = nn.LSTM(128, 128, batch_first=True)
        self.head = nn.Conv1d(128, 1, 1)

    def features(self, windows: torch.Tensor) -> torch.Tensor:
        """(n, context + window samples) to (n, 128)."""
        padded = functional.pad(windows[:, None], (0, self.context), mode="reflect")
        spectrum = self.stft(padded)
        real, imaginary = spectrum.chunk(2, dim=1)
        hidden = (real.square() + imaginary.square()).sqrt()
        for convolution in self.encoder:
            hidden = torch.relu(convolution(hidden))
        result: torch.Tensor = hidden[..., 0]
        return result

    def forward(
        self, windows: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """(channels, n, context + window samples) to probabilities (channels, n)."""
        channels, count, width = windows.shape
        hidden = self.features(windows.reshape(channels * count, width))
        hidden, state = self.rnn(hidden.view(channels, count, -1), state)
        logits = self.head(torch.relu(hidden).transpose(1, 2))
        return torch.sigmoid(logits)[:, 0], state


@lru_cache(maxsize=len(VAD_RATES))
def _load_network(rate: int) -> _Network:
    # The package is not imported: importing it sets PyTorch's thread count to one.
    package = importlib.util.find_spec("silero_vad")
    if package is None or package.origin is None:
        raise ModelError("silero-vad is not installed", "pip install silero-vad, or use --no-vad")
    file = Path(package.origin).parent / "data" / "silero_vad.jit"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            weights = torch.jit.load(str(file), map_location="cpu").state_dict()
        prefix = "_model." if rate == 16000 else "_model_8k."
        network = _Network(rate)
        own = {"stft.weight": weights[f"{prefix}stft.forward_basis_buffer"]}
        for layer in range(4):
            for kind in ("weight", "bias"):
                own[f"encoder.{layer}.{kind}"] = weights[
                    f"{prefix}encoder.{layer}.reparam_conv.{kind}"
                ]
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            own[f"rnn.{name}_l0"] = weights[f"{prefix}decoder.rnn.{name}"]
        for kind in ("weight", "bias"):
            own[f"head.{kind}"] = weights[f"{prefix}decoder.decoder.2.{kind}"]
        network.load_state_dict(own)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"the installed silero-vad package has no model that speechmeta can use: {error}",
            "install a 6.x version: pip install 'silero-vad>=6,<7'",
        ) from error
    return network.eval().requires_grad_(False)


class SileroVad:
    """Speech probabilities of a stream of blocks; every channel has a state of its own.

    Args:
        sample_rate: 8000 or 16000 Hz.
        channels: rows of the blocks.
        warm_up: feed the network the first second backwards before it begins. Fresh, it
            misses up to half a second of a recording that begins with speech; after silence
            it would take the sudden noise of a line for speech.

    Raises:
        UsageError: another rate. ModelError: the weights cannot be loaded.
    """

    def __init__(self, sample_rate: int, channels: int, warm_up: bool = True) -> None:
        if sample_rate not in VAD_RATES:
            raise UsageError(
                f"Silero VAD has no model for {sample_rate} Hz", "resample to 8000 or 16000 Hz"
            )
        self._network = _load_network(sample_rate)
        self.window = self._network.window
        context = self._network.context
        self._held = np.zeros((channels, context), np.float32)
        self._state = (torch.zeros(1, channels, 128), torch.zeros(1, channels, 128))
        self._waiting = warm_up

    def push(self, block: FloatArray) -> FloatArray:
        """Takes (channels, n) samples; returns (channels, m) of the windows complete now."""
        self._held = np.concatenate([self._held, block], axis=1)
        context = self._network.context
        if self._waiting:
            if self._held.shape[1] - context < _WARM_UP_WINDOWS * self.window:
                return self._held[:, :0]
            self._warm_up()
        count = (self._held.shape[1] - context) // self.window
        found = [np.zeros((len(self._held), 0), np.float32)]
        for first in range(0, count, _CHUNK_WINDOWS):
            last = min(count, first + _CHUNK_WINDOWS)
            part = self._held[:, first * self.window : last * self.window + context]
            found.append(self._probabilities(np.ascontiguousarray(part)))
        self._held = self._held[:, count * self.window :]
        return np.concatenate(found, axis=1)

    def finish(self) -> FloatArray:
        """What was held back, the last window filled up with zeros: (channels, m)."""
        if self._waiting:
            self._warm_up()
        missing = -(self._held.shape[1] - self._network.context) % self.window
        return self.push(np.zeros((len(self._held), missing), np.float32))

    def _warm_up(self) -> None:
        self._waiting = False
        context = self._network.context
        first = self._held[:, context : context + _WARM_UP_WINDOWS * self.window]
        whole = first.shape[1] // self.window * self.window
        if whole:
            backwards = first[:, :whole][:, ::-1]
            padded = np.pad(backwards, ((0, 0), (context, 0)))
            self._probabilities(np.ascontiguousarray(padded))
            self._held[:, :context] = backwards[:, whole - context :]

    def _probabilities(self, samples: FloatArray) -> FloatArray:
        with torch.inference_mode():
            windows = torch.from_numpy(samples).unfold(
                1, self.window + self._network.context, self.window
            )
            probabilities, self._state = self._network(windows, self._state)
            result: FloatArray = probabilities.numpy()
        return result
