"""Times of words: a transcript aligned with the CTC head of the checkpoint that wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from speechmeta.audio.types import FloatArray
from speechmeta.errors import ModelError
from speechmeta.schema import Word

SAMPLE_RATE = 16_000

NOT_ALIGNED = "words_not_aligned"
"""Flag of a turn whose transcript has more tokens than its audio has frames."""


class WordAligner:
    """Finds where the words of a transcript are in its audio.

    Args:
        model: a `SpeechLLMForConditionalGeneration` with a CTC head.
        processor: its processor.
        batch_seconds: padded audio that is encoded together.

    Raises:
        ModelError: the checkpoint has no CTC head.
    """

    def __init__(self, model: Any, processor: Any, batch_seconds: float = 60.0) -> None:
        if getattr(model, "ctc_head", None) is None:
            raise ModelError(
                "this checkpoint has no CTC head, so the times of words are not known",
                "leave --word-times out, or use a checkpoint trained with ctc_head",
            )
        self._model, self._processor = model, processor
        self._batch_seconds = batch_seconds

    def align(
        self, clips: Sequence[FloatArray], transcripts: Sequence[str]
    ) -> list[list[Word] | None]:
        """Words with times in seconds from the start of each clip.

        Args:
            clips: mono (samples,) at 16 kHz.
            transcripts: one each; may be empty.

        Returns:
            for each clip its words, in the transcript's own spelling, or None where the
            transcript is too long for the audio.
        """
        found: list[list[Word] | None] = [[] for _ in clips]
        wanted = [index for index, text in enumerate(transcripts) if text.split()]
        batch: list[int] = []
        for index in wanted:
            longest = max(len(clips[other]) for other in [*batch, index])
            if batch and longest * (len(batch) + 1) > self._batch_seconds * SAMPLE_RATE:
                self._align_batch(batch, clips, transcripts, found)
                batch = []
            batch.append(index)
        if batch:
            self._align_batch(batch, clips, transcripts, found)
        return found

    @torch.inference_mode()
    def _align_batch(
        self,
        batch: Sequence[int],
        clips: Sequence[FloatArray],
        transcripts: Sequence[str],
        found: list[list[Word] | None],
    ) -> None:
        inputs = self._processor.prepare_audio([clips[index] for index in batch])
        device = self._model.device
        features = self._model.get_audio_features(
            inputs["input_values"].to(device), inputs["audio_attention_mask"].to(device)
        )
        log_probs = features.ctc_logits.float().log_softmax(-1).cpu()
        lengths = features.encoder_lengths.tolist()
        for row, index in enumerate(batch):
            found[index] = self._words(
                log_probs[row, : lengths[row]], transcripts[index], len(clips[index])
            )

    def _words(self, log_probs: torch.Tensor, text: str, samples: int) -> list[Word] | None:
        from torchaudio.functional import forced_align, merge_tokens

        words = text.split()
        ids, owners = self._tokens(words)
        blank = self._model.config.text_config.pad_token_id
        repeats = sum(first == second for first, second in pairwise(ids))
        if not ids or blank in ids or len(ids) + repeats > len(log_probs):
            return None
        path, scores = forced_align(
            log_probs[None].contiguous(), torch.tensor([ids], dtype=torch.int32), blank=blank
        )
        spans = merge_tokens(path[0], scores[0].exp(), blank=blank)
        starts: dict[int, int] = {}
        ends: dict[int, int] = {}
        weights: dict[int, list[tuple[float, int]]] = {}
        for span, owner in zip(spans, owners, strict=True):
            starts.setdefault(owner, span.start)
            ends[owner] = span.end
            weights.setdefault(owner, []).append((span.score, span.end - span.start))
        if len(starts) < len(words):
            return None
        seconds = samples / SAMPLE_RATE
        result = []
        for owner, word in enumerate(words):
            frames = sum(count for _, count in weights[owner])
            score = sum(value * count for value, count in weights[owner]) / frames
            result.append(
                Word(
                    word=word,
                    start=round(min(max(self._seconds(starts[owner]), 0.0), seconds), 3),
                    end=round(min(max(self._seconds(ends[owner]), 0.0), seconds), 3),
                    score=round(score, 4),
                )
            )
        return result

    def _tokens(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Token ids of the transcript as the checkpoint writes it, and each one's word."""
        lead = self._processor.layout.transcript_lead
        text = lead + " ".join(words)
        encoded = self._processor.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True
        )
        # Which word a character belongs to; a space belongs to the word after it.
        owner_of = [0] * len(text)
        place = len(lead)
        for owner, word in enumerate(words):
            for index in range(max(0, place - 1), place + len(word)):
                owner_of[index] = owner
            place += len(word) + 1
        owners = [
            owner_of[max(begin, end - 1)] if owner_of else 0
            for begin, end in encoded["offset_mapping"]
        ]
        return list(encoded["input_ids"]), owners

    def _seconds(self, frame: int) -> float:
        """Where a frame begins in the clip; frames overlap, so the middle of its stride."""
        audio = self._model.config.audio_config
        stride = int(np.prod(audio.conv_stride))
        reach = 1
        for kernel, step in zip(
            reversed(audio.conv_kernel), reversed(audio.conv_stride), strict=True
        ):
            reach = (reach - 1) * step + kernel
        sample = frame * stride + (reach - stride) / 2 - self._processor.margin_samples
        return float(sample / SAMPLE_RATE)


def shifted(words: Sequence[Word], seconds: float) -> list[Word]:
    """The words moved from the start of their clip to the start of the file."""
    return [
        word.model_copy(
            update={
                "start": round(word.start + seconds, 3),
                "end": round(word.end + seconds, 3),
            }
        )
        for word in words
    ]
