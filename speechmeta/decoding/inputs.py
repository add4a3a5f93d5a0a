"""From waveforms to the decoder's input embeddings, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.decoding.audio_models import AudioModel, AudioProcessor
from speechmeta.decoding.memory import in_parts
from speechmeta.decoding.options import DecodeOptions
from speechmeta.errors import DecodingError, SpeechMetaError
from speechmeta.schema import FIELDS


@dataclass
class Prompt:
    """What the decoder reads before it writes one record.

    Attributes:
        embeds: (positions, width).
        seconds: length of the audio.
        memory: (encoder positions, width), what a cross-attention decoder looks at.
    """

    embeds: torch.Tensor
    seconds: float
    memory: torch.Tensor | None = None


class PromptBuilder:
    """Encodes audio and puts the prompt's text around it.

    Args:
        model, processor: of one checkpoint.
        options: sizes of the encoder's batches.
    """

    def __init__(
        self, model: AudioModel, processor: AudioProcessor, options: DecodeOptions
    ) -> None:
        self._model = model
        self._processor = processor
        self._options = options
        # Group normalisation in the front-end runs over time: padding would change its result.
        self._pads = getattr(model.config.audio_config, "feat_extract_norm", "") != "group"

    @torch.inference_mode()
    def build(
        self,
        waveforms: Sequence[np.ndarray],
        fields: Sequence[str],
        instruction: str | None,
    ) -> list[Prompt | SpeechMetaError]:
        """Prompts in the order of the waveforms, each (samples,) float at 16 kHz.

        Raises:
            UsageError: the checkpoint takes no instruction, but one was given.
        """
        if instruction is None and tuple(fields) != FIELDS:
            instruction = self._processor.instruction_for(fields) or None
        before, after = self._processor.prompt_ids(instruction)
        table = self._model.get_input_embeddings()
        device = _device(table)
        head, tail = (table(torch.tensor(ids, device=device).long()) for ids in (before, after))

        results: list[Prompt | SpeechMetaError | None] = [None] * len(waveforms)
        ready: list[tuple[int, torch.Tensor]] = []
        for row, waveform in enumerate(waveforms):
            try:
                values = self._processor.prepare_audio([waveform])["input_values"][0]
                ready.append((row, torch.as_tensor(values)))
            except (SpeechMetaError, ValueError, TypeError) as error:
                results[row] = _as_error(error)
        for bucket in self._buckets(ready):
            encoded = in_parts(bucket, self._encode)
            for (row, _), item in zip(bucket, encoded, strict=True):
                if isinstance(item, SpeechMetaError):
                    results[row] = item
                    continue
                results[row] = Prompt(
                    torch.cat([head, item.to(head.dtype), tail]),
                    len(waveforms[row]) / SAMPLE_RATE,
                )
        return [item for item in results if item is not None]

    def _buckets(
        self, rows: list[tuple[int, torch.Tensor]]
    ) -> list[list[tuple[int, torch.Tensor]]]:
        """Rows of similar length, the longest first."""
        buckets: list[list[tuple[int, torch.Tensor]]] = []
        for row in sorted(rows, key=lambda item: -len(item[1])):
            if buckets:
                longest = len(buckets[-1][0][1])
                ratio = len(row[1]) / longest
                fits = (len(buckets[-1]) + 1) * longest <= (
                    self._options.encoder_seconds * SAMPLE_RATE
                )
                if fits and ratio >= (self._options.bucket_ratio if self._pads else 1.0):
                    buckets[-1].append(row)
                    continue
            buckets.append([row])
        return buckets

    def _encode(
        self, rows: Sequence[tuple[int, torch.Tensor]]
    ) -> list[torch.Tensor | SpeechMetaError]:
        device = _device(self._model.get_input_embeddings())
        lengths = torch.tensor([len(values) for _, values in rows])
        values = torch.nn.utils.rnn.pad_sequence([item for _, item in rows], batch_first=True)
        mask = (torch.arange(values.shape[1]) < lengths[:, None]).long()
        features = self._model.get_audio_features(
            values.to(device), mask.to(device) if int(lengths.min()) < values.shape[1] else None
        )
        counts = features.lengths.tolist()
        return [features.embeds[row, : counts[row]] for row in range(len(rows))]


def _device(table: torch.nn.Module) -> torch.device:
    return next(table.parameters()).device


def _as_error(error: Exception) -> SpeechMetaError:
    if isinstance(error, SpeechMetaError):
        return error
    return DecodingError(f"the audio cannot be prepared: {error}", "check the waveform")
