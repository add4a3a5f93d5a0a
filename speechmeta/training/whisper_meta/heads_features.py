"""Pooled hidden states of crops on disk, so that heads are trained in seconds and again at will."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speechmeta.training.whisper_meta.features import (
    SAMPLES_PER_FRAME,
    batch_features,
    log_mel,
    with_silence,
)

if TYPE_CHECKING:
    import torch
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

_LOG = logging.getLogger(__name__)
_SORTED_TOGETHER = 256


def hidden_states(
    encoder: WhisperEncoder, features: torch.Tensor, mask: torch.Tensor
) -> list[torch.Tensor]:
    """What the first layer reads and each layer's output, the last one normalised.

    Args:
        features: (batch, mel, 2 * frames), rows padded with 0.0.
        mask: (batch, frames) bool, the frames of each row.
    """
    import torch
    from torch.nn.functional import gelu

    fine = mask.repeat_interleave(2, dim=1)[:, None]
    hidden = gelu(encoder.conv1(features)) * fine
    hidden = gelu(encoder.conv2(hidden)).transpose(1, 2)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    additive = torch.zeros(mask.shape, dtype=hidden.dtype).masked_fill(~mask, -1e9)[:, None, None]
    states = [hidden]
    for layer in encoder.layers:
        hidden = layer(hidden, additive)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        states.append(hidden)
    states[-1] = encoder.layer_norm(states[-1])
    return states


class StatisticsStore:
    """Pooled hidden states of many crops, one behind the other.

    Attributes:
        names: of the crops, in the order of the rows.
        rows: (crops, layers, 2, width) float16, memory-mapped: mean and deviation.
    """

    def __init__(self, folder: Path) -> None:
        shape = json.loads((folder / "shape.json").read_text(encoding="utf-8"))
        self.names: list[str] = (folder / "names.txt").read_text(encoding="utf-8").splitlines()
        stored = np.memmap(folder / "rows.float16", dtype=np.float16, mode="r")
        self.rows = stored[: len(self.names) * int(np.prod(shape))].reshape(-1, *shape)

    def __len__(self) -> int:
        return len(self.names)


def write_statistics(
    encoder: WhisperEncoder,
    names: Sequence[str],
    wave: Callable[[int], np.ndarray],
    seconds: Sequence[float],
    folder: Path,
    trailing_silence: float,
    batch_seconds: float = 40.0,
) -> StatisticsStore:
    """Runs the encoder over waveforms; goes on behind what the folder already holds.

    Args:
        names: of the items, without line breaks.
        wave: the samples of item number N.
        seconds: about how long each is, for batches of similar length.
    """
    import torch

    from speechmeta.models.whisper_meta.heads import pool_statistics

    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(encoder.layers) + 1, 2, encoder.config.d_model)
    (folder / "shape.json").write_text(json.dumps(shape), encoding="utf-8")
    (folder / "names.txt").touch()
    (folder / "rows.float16").touch()
    done = (folder / "names.txt").read_text(encoding="utf-8").splitlines()
    known = set(done)
    waiting = [at for at, name in enumerate(names) if name not in known]
    began, made = time.time(), 0
    with (
        (folder / "rows.float16").open("r+b") as data,
        (folder / "names.txt").open("a", encoding="utf-8") as index,
    ):
        # A run that was stopped left rows that have no name.
        data.truncate(len(done) * int(np.prod(shape)) * 2)
        data.seek(0, 2)
        for batch in _batches(waiting, seconds, batch_seconds):
            waves = [wave(at) for at in batch]
            mels = [log_mel(with_silence(samples, trailing_silence)) for samples in waves]
            features, mask = batch_features(mels)
            audio = torch.zeros_like(mask)
            for row, samples in enumerate(waves):
                audio[row, : max(1, -(-len(samples) // SAMPLES_PER_FRAME))] = True
            with torch.no_grad():
                states = hidden_states(encoder, features.to(encoder.dtype), mask)
                pooled = pool_statistics(states, audio & mask)
            data.write(pooled.clamp(-60000, 60000).numpy().astype(np.float16).tobytes())
            data.flush()
            index.write("".join(names[at] + "\n" for at in batch))
            index.flush()
            made += len(batch)
            if made // 200 != (made - len(batch)) // 200:
                each = (time.time() - began) / made
                _LOG.info("%d of %d, %.3f s each", made, len(waiting), each)
    return StatisticsStore(folder)


def _batches(
    places: Sequence[int], seconds: Sequence[float], batch_seconds: float
) -> list[list[int]]:
    batches: list[list[int]] = []
    for start in range(0, len(places), _SORTED_TOGETHER):
        part = sorted(places[start : start + _SORTED_TOGETHER], key=lambda at: seconds[at])
        batch: list[int] = []
        for at in part:
            if batch and (len(batch) + 1) * (seconds[at] + 1) > batch_seconds:
                batches.append(batch)
                batch = []
            batch.append(at)
        if batch:
            batches.append(batch)
    return batches


def load_encoder(folder: Path) -> Any:
    """Whisper's encoder of a checkpoint folder, ours or transformers', in bfloat16."""
    import torch
    from transformers import AutoConfig, WhisperForConditionalGeneration

    from speechmeta.models.whisper_meta.modeling_whisper_meta import (
        WhisperMetaForConditionalGeneration,
    )

    if AutoConfig.from_pretrained(folder, trust_remote_code=False).model_type == "whisper":
        plain = WhisperForConditionalGeneration.from_pretrained(
            folder, dtype=torch.bfloat16, trust_remote_code=False
        )
        return plain.eval().model.encoder
    model = WhisperMetaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.bfloat16, trust_remote_code=False
    )
    return model.eval().whisper.model.encoder
