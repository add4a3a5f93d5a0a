"""Where two voices talk at once on one channel: a small network over spectra.

Two dimensional convolutions see the harmonics of a voice, and of two; a recurrent layer in both
directions sees what came before and after. Trained on mixtures (`recipes/overlap/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.audio.types import FloatArray
from speechmeta.diarization.packaged import opened_network
from speechmeta.diarization.second_speaker import FRAME_SECONDS

FRAME = round(FRAME_SECONDS * SAMPLE_RATE)
HOP = FRAME // 2
"""Samples from spectrum to spectrum; two make a frame."""
WINDOW = 1024
"""Samples of a spectrum, 64 ms: harmonics of a low voice are apart."""
BINS = 160
"""Up to 2.5 kHz, linear: where the harmonics are, on any line."""

CHUNK_SECONDS = 20.0
MARGIN_SECONDS = 1.0
"""Long audio is looked at in chunks; so much beside each is heard but not told."""

_FLOOR = 1e-6
_RANGE = 8.0


class OverlapNetwork(nn.Module):
    """Log spectra (n, 2 * frames, 160) to logits (n, frames) of two voices at once."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        sizes = (1, 16, 24, 32)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, (3, 5), stride=(2 if before == 1 else 1, 2), padding=(1, 2))
            for before, after in pairwise(sizes)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for after in sizes[1:])
        self.squeeze = nn.Linear(sizes[-1] * (BINS // 8), 96)
        self.memory = nn.GRU(96, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, 1)

    def forward(self, spectra: torch.Tensor) -> torch.Tensor:
        hidden = spectra[:, None]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = torch.relu(norm(convolution(hidden)))
        hidden = hidden.permute(0, 2, 1, 3).flatten(2)
        hidden, _ = self.memory(torch.relu(self.squeeze(hidden)))
        logits: torch.Tensor = self.head(hidden)[..., 0]
        return logits


def spectra(waves: torch.Tensor) -> torch.Tensor:
    """Waveforms (n, samples) at 16 kHz to log spectra (n, 2 * frames, 160).

    Each clip is brought to one level, and each bin loses its mean: what a line does to all.
    """
    power = waves.square().mean(-1, keepdim=True)
    waves = waves / power.clamp(min=1e-10).sqrt()
    window = torch.hann_window(WINDOW, device=waves.device)
    found = torch.stft(
        waves, WINDOW, HOP, window=window, center=True, pad_mode="constant", return_complex=True
    )
    # Half a window of zeros at each end makes one frame more than there are hops.
    count = waves.shape[-1] // FRAME * 2
    log = (found[:, 1 : BINS + 1, :count].abs().square() / WINDOW + _FLOOR).log()
    top = log.amax(dim=(1, 2), keepdim=True)
    log = torch.maximum(log, top - 2 * _RANGE).transpose(1, 2)
    result: torch.Tensor = (log - log.mean(1, keepdim=True)) / 3.0
    return result


class OverlapDetector:
    """Says of each 40 ms how probable it is that two voices talk at once.

    Args:
        network: gives logits. threshold: probability from which a frame is overlap.
    """

    def __init__(self, network: OverlapNetwork, threshold: float) -> None:
        self.network = network.eval().requires_grad_(False)
        self.threshold = threshold

    @classmethod
    def load(cls, file: Path) -> Self:
        """From the file that `save` writes.

        Raises:
            ModelError: there is no such file, or something else is in it.
        """
        with opened_network(file, "overlap detector") as (tensors, notes):
            threshold = float(notes["threshold"])
            network = OverlapNetwork()
            network.load_state_dict(tensors, strict=False)
            missing = {name for name in network.state_dict() if "num_batches" not in name}
            if missing != set(tensors):
                raise ValueError("other tensors than expected")
        return cls(network, threshold)

    def save(self, file: Path, notes: Mapping[str, str]) -> None:
        """The network in half precision.

        Args:
            notes: of origin and licence, kept in the file.
        """
        from safetensors.torch import save_file

        tensors = {
            name: value.half()
            for name, value in self.network.state_dict().items()
            if "num_batches" not in name
        }
        save_file(tensors, str(file), {**notes, "threshold": f"{self.threshold:.4f}"})

    @torch.inference_mode()
    def probabilities(self, wave: FloatArray) -> npt.NDArray[np.float32]:
        """(samples,) at 16 kHz to (frames,), one for each whole 40 ms; twenty seconds at a time."""
        chunk, margin = round(CHUNK_SECONDS * SAMPLE_RATE), round(MARGIN_SECONDS * SAMPLE_RATE)
        total = len(wave) // FRAME
        found = np.zeros(total, np.float32)
        for first in range(0, total * FRAME, chunk):
            begin, end = max(0, first - margin), min(len(wave), first + chunk + margin)
            part = torch.from_numpy(np.ascontiguousarray(wave[begin:end]))[None]
            told = torch.sigmoid(self.network(spectra(part)))[0].numpy()
            skip = (first - begin) // FRAME
            own = told[skip : skip + chunk // FRAME]
            found[first // FRAME : first // FRAME + len(own)] = own
        return found


@lru_cache(maxsize=1)
def packaged_detector() -> OverlapDetector:
    """The package's own, loaded once.

    Raises:
        ModelError: its file is damaged or was left out of the installation.
    """
    return OverlapDetector.load(PACKAGED)


PACKAGED = Path(__file__).parents[1] / "checkpoints" / "overlap.safetensors"
"""What `speechmeta train recipes/overlap/recipe.yaml` makes."""
