"""Speaker embeddings: a vector for each clip, close for one voice and far for two.

By default they come from a small network that ships with the package
(`diarization.voice_encoder`); the checkpoint's own encoder or a speaker verification model of the
hub can be named in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.audio.types import FloatArray
from speechmeta.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from speechmeta.diarization.same_voice import VoiceSpread

Matrix = npt.NDArray[np.float64]


PROJECTION_FILE = "speaker_projection.safetensors"
"""A trained projection; beside a checkpoint's weights that of its encoder."""

ENCODER_DISTANCE = 0.12
"""Cosine distance between two voices from the bare embeddings of an encoder trained for words:
where windows of 1.5 s of one voice are as often further apart as those of two are closer (37 %
of them; a trained projection does better)."""

VERIFICATION_DISTANCE = 0.14
"""The model card of microsoft/wavlm-base-plus-sv takes a cosine similarity of 0.86 for the
same speaker."""


_OTHER_PROJECTION = (
    f"it was made for another checkpoint: delete {PROJECTION_FILE}, or make it again with "
    "speechmeta.training.speakers"
)


class Embedder(Protocol):
    """Anything that gives voices a place in space.

    Attributes:
        distance: the cosine distance from which two clusters are two speakers.
        spread: of the vectors, which tells better how many speakers there are; None where only
            the distance is known.
    """

    distance: float
    spread: VoiceSpread | None

    def embed(self, clips: Sequence[FloatArray]) -> Matrix:
        """Unit vectors (clips, size) of mono clips (samples,) at 16 kHz."""
        ...


@dataclass(frozen=True)
class SpeakerProjection:
    """A linear map, trained on many speakers, under which voices differ and words do not.

    Attributes:
        mean: (size,) subtracted first.
        matrix: (size, smaller).
        distance: cosine distance between two speakers after it.
        layer: hidden state of the encoder that it was trained on.
    """

    mean: Matrix
    matrix: Matrix
    distance: float
    layer: int

    def apply(self, vectors: Matrix) -> Matrix:
        """(n, size) to unit vectors (n, smaller)."""
        return unit((vectors - self.mean) @ self.matrix)

    def save(self, folder: Path) -> None:
        """Writes `speaker_projection.safetensors` into a checkpoint's folder."""
        from safetensors.numpy import save_file

        save_file(
            {
                "mean": self.mean.astype(np.float32),
                "matrix": np.ascontiguousarray(self.matrix, dtype=np.float32),
            },
            str(folder / PROJECTION_FILE),
            metadata={"distance": repr(float(self.distance)), "layer": str(self.layer)},
        )

    @classmethod
    def load(cls, folder: Path) -> SpeakerProjection | None:
        """Reads it from a checkpoint's folder; None where there is none.

        Raises:
            ModelError: the file is there, but not what it should be.
        """
        from safetensors import SafetensorError, safe_open

        file = folder / PROJECTION_FILE
        if not file.is_file():
            return None
        try:
            with safe_open(str(file), "numpy") as opened:
                notes = opened.metadata()
                return cls(
                    mean=opened.get_tensor("mean").astype(np.float64),
                    matrix=opened.get_tensor("matrix").astype(np.float64),
                    distance=float(notes["distance"]),
                    layer=int(notes["layer"]),
                )
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{file} is not a speaker projection: {error}",
                "make it again with speechmeta.training.speakers, or delete it",
            ) from error


class EncoderEmbedder:
    """Mean and standard deviation over time of a hidden state of a SpeechLLM's encoder.

    Args:
        model: a `SpeechLLMForConditionalGeneration`. processor: its processor.
        layer: which of the hidden states that the encoder gives, -1 the last. HuBERT and WavLM
            give one before the first layer (0) and one after each; others may give fewer.
        projection: applied to the pooled vectors; its layer counts, if given.
        batch_seconds: padded audio that is encoded together.

    Attributes:
        layers: the number of the last hidden state.

    Raises:
        ModelError: the encoder gives no such hidden state, or the projection was made for another.
    """

    spread: VoiceSpread | None = None

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        layer: int | None = None,
        projection: SpeakerProjection | None = None,
        batch_seconds: float = 60.0,
    ) -> None:
        self._model, self._processor = model, processor
        self._batch_seconds = batch_seconds
        # The config's number of layers does not say which of them are given as hidden states.
        states, mask = self._encode([np.zeros(SAMPLE_RATE, np.float32)])
        self.layers = len(states) - 1
        # Voices are told apart best below the middle; the last layers know words.
        usual = min(self.layers, max(1, self.layers // 3))
        chosen = projection.layer if projection else usual if layer is None else layer
        self.layer = chosen if chosen >= 0 else len(states) + chosen
        self._check(self.layer, chosen, _OTHER_PROJECTION if projection else "")
        if states[self.layer].shape[1] != model.num_encoder_frames(mask.shape[1]):
            raise ModelError(
                f"hidden state {chosen} of the encoder has another frame rate than its output",
                _OTHER_PROJECTION if projection else "choose another layer",
            )
        size = 2 * states[self.layer].shape[2]
        if projection is not None and projection.matrix.shape[0] != size:
            raise ModelError(
                f"the speaker projection takes vectors of {projection.matrix.shape[0]} numbers, "
                f"layer {chosen} of the encoder gives {size}",
                _OTHER_PROJECTION,
            )
        self.projection = projection
        self.distance = projection.distance if projection else ENCODER_DISTANCE

    def embed(self, clips: Sequence[FloatArray]) -> Matrix:
        """Unit vectors (clips, size)."""
        pooled = self.pool(clips)
        return self.projection.apply(pooled) if self.projection else unit(pooled)

    def pool(self, clips: Sequence[FloatArray]) -> Matrix:
        """Means and standard deviations (clips, 2 * width), before any projection."""
        return self.pool_layers(clips, [self.layer])[0]

    def pool_layers(self, clips: Sequence[FloatArray], layers: Sequence[int]) -> list[Matrix]:
        """The same for several hidden states (0 to `layers`), each (clips, 2 * width).

        Raises:
            ModelError: the encoder does not give one of them.
        """
        for layer in layers:
            self._check(layer, layer)
        parts = [self._pool(part, layers) for part in _batches(clips, self._batch_seconds)]
        return [np.concatenate(rows).astype(np.float64) for rows in zip(*parts, strict=True)]

    def _check(self, layer: int, named: int, hint: str = "") -> None:
        if not 0 <= layer <= self.layers:
            raise ModelError(
                f"the encoder gives hidden states 0 to {self.layers}, not number {named}",
                hint or f"choose a layer from 0 to {self.layers}",
            )

    @torch.inference_mode()
    def _encode(self, clips: Sequence[FloatArray]) -> tuple[Sequence[torch.Tensor], torch.Tensor]:
        """Hidden states (clips, frames, width) each, and the mask of the samples."""
        inputs = self._processor.prepare_audio(clips)
        tower = self._model.audio_tower
        weight = next(tower.parameters())
        mask = inputs["audio_attention_mask"].to(weight.device)
        # Some encoders take float32 waveforms whatever their weights are.
        values = inputs["input_values"].to(
            weight.device, getattr(tower, "input_dtype", weight.dtype)
        )
        states = tower(values, attention_mask=mask, output_hidden_states=True).hidden_states
        if not states:
            raise ModelError(
                "the encoder of this checkpoint gives no hidden states",
                "leave --speaker-model out, or name a speaker verification model",
            )
        return states, mask

    @torch.inference_mode()
    def _pool(self, clips: Sequence[FloatArray], layers: Sequence[int]) -> list[FloatArray]:
        states, mask = self._encode(clips)
        frames = self._model.num_encoder_frames(mask.sum(-1))
        places = torch.arange(states[layers[0]].shape[1], device=mask.device)
        real = places < frames[:, None]
        # The processor's silent margin is the same for all and says nothing.
        stride = int(np.prod(self._model.config.audio_config.conv_stride))
        margin = self._processor.margin_samples // stride
        if margin:
            inner = real.clone()
            inner[:, :margin] = False
            ends = torch.clamp(frames - margin, min=0)[:, None]
            inner &= places < ends
            real = torch.where(inner.any(-1, keepdim=True), inner, real)
        count = real.sum(-1, keepdim=True).clamp(min=1)
        weights = real[..., None].float()
        pooled = []
        for layer in layers:
            hidden = states[layer].float()
            mean = (hidden * weights).sum(1) / count
            variance = ((hidden - mean[:, None]).square() * weights).sum(1) / count
            pooled.append(torch.cat([mean, variance.sqrt()], dim=1).cpu().numpy())
        return pooled


class VerificationEmbedder:
    """X-vectors of a speaker verification model in transformers' `AutoModelForAudioXVector`
    layout, such as `microsoft/wavlm-base-plus-sv`.

    Args:
        name: a hub id or a folder.
        device: as PyTorch names it.
        local_files_only: never use the network.

    Raises:
        ModelError: it cannot be found, reached or read, or is of another kind.
    """

    distance = VERIFICATION_DISTANCE
    spread: VoiceSpread | None = None

    def __init__(
        self,
        name: str,
        device: str | torch.device = "cpu",
        local_files_only: bool = False,
        batch_seconds: float = 60.0,
    ) -> None:
        from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

        # Not at the top: the voiceprint needs neither.
        from speechmeta.trust import checkpoint_errors, from_checkpoint

        with checkpoint_errors(
            f"the speaker model {name} cannot be loaded",
            "name a folder or a hub id of a WavLMForXVector, or leave --speaker-model out",
        ):
            self._extractor: Any = from_checkpoint(
                AutoFeatureExtractor, name, local_files_only=local_files_only
            )
            self._model, found = from_checkpoint(
                AutoModelForAudioXVector,
                name,
                local_files_only=local_files_only,
                output_loading_info=True,
            )
        missing = sorted(found["missing_keys"])
        # Only the training loss needs it.
        missing = [key for key in missing if not key.startswith("objective.")]
        if missing:
            raise ModelError(
                f"the speaker model {name} lacks {', '.join(missing[:3])}",
                "name a checkpoint that was trained for speaker verification",
            )
        self._model.eval().to(device)
        self._batch_seconds = batch_seconds

    def embed(self, clips: Sequence[FloatArray]) -> Matrix:
        """Unit vectors (clips, size)."""
        # Only clips of one length go together: the front-end of the published models
        # normalises over time, so that padding would change what is embedded.
        by_length: dict[int, list[int]] = {}
        for index, clip in enumerate(clips):
            by_length.setdefault(len(clip), []).append(index)
        rows: dict[int, FloatArray] = {}
        for indices in by_length.values():
            parts = _batches([clips[index] for index in indices], self._batch_seconds)
            found = [row for part in parts for row in self._embed(part)]
            rows.update(zip(indices, found, strict=True))
        return unit(np.stack([rows[index] for index in range(len(clips))]).astype(np.float64))

    @torch.inference_mode()
    def _embed(self, clips: Sequence[FloatArray]) -> list[FloatArray]:
        inputs = self._extractor(list(clips), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        values = inputs["input_values"].to(self._model.device)
        return list(self._model(input_values=values).embeddings.float().cpu().numpy())


def unit(vectors: Matrix) -> Matrix:
    """Rows of length one; a row of zeros stays."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Matrix = vectors / np.where(norms > 0, norms, 1.0)
    return result


def _batches(clips: Sequence[FloatArray], seconds: float) -> list[list[FloatArray]]:
    """Clips in order, together no longer than `seconds` when padded to the longest."""
    parts: list[list[FloatArray]] = []
    for clip in clips:
        if parts:
            longest = max(len(clip), *(len(other) for other in parts[-1]))
            if longest * (len(parts[-1]) + 1) <= seconds * SAMPLE_RATE:
                parts[-1].append(clip)
                continue
        parts.append([clip])
    return parts
