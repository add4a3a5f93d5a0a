"""From waveforms to the log-mel features of Whisper, as long as the clip or padded to 30 s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from speechmeta.errors import AudioError
from speechmeta.models.waveforms import (
    SAMPLE_RATE,
    Waveform,
    checked_waveform,
    read_waveforms,
    refuse_others,
)
from speechmeta.models.whisper_meta.configuration_whisper_meta import WhisperMetaConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, WhisperFeatureExtractor

HOP = 160
"""Samples of one log-mel frame."""


class WhisperMetaProcessor(ProcessorMixin):
    """Makes features, and decodes token ids.

    Args:
        feature_extractor: a `WhisperFeatureExtractor`.
        tokenizer: Whisper's tokenizer; it is not changed.
        variable_length, trailing_silence, min_seconds: as in `WhisperMetaConfig`.
    """

    def __init__(
        self,
        feature_extractor: WhisperFeatureExtractor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        variable_length: bool = False,
        trailing_silence: float = 0.0,
        min_seconds: float = 0.0,
    ) -> None:
        self.variable_length = variable_length
        self.trailing_silence = trailing_silence
        self.min_seconds = min_seconds
        super().__init__(feature_extractor, tokenizer)

    @classmethod
    def for_config(
        cls,
        config: WhisperMetaConfig,
        feature_extractor: WhisperFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
    ) -> WhisperMetaProcessor:
        """The processor that fits a model's config."""
        return cls(
            feature_extractor,
            tokenizer,
            variable_length=config.variable_length,
            trailing_silence=config.trailing_silence,
            min_seconds=config.min_seconds,
        )

    @property
    def max_seconds(self) -> float:
        """The longest clip that is heard whole."""
        longest = float(self.feature_extractor.n_samples) / SAMPLE_RATE
        return longest - self.trailing_silence if self.variable_length else longest

    def features(self, waveform: np.ndarray) -> tuple[torch.Tensor, int]:
        """Log-mel features of one clip (samples,), float at 16 kHz.

        The floor 8 below the maximum is the clip's own, over all of its frames.

        Returns:
            (mel bins, F) float32, F even; and how many of the F frames hold the clip itself.

        Raises:
            AudioError: the waveform is empty, has several channels, is longer than
                `max_seconds`, or holds NaN.
        """
        wave = checked_waveform(waveform)
        if len(wave) > round(self.max_seconds * SAMPLE_RATE):
            raise AudioError(
                f"the audio is {len(wave) / SAMPLE_RATE:.1f} s long, the model takes "
                f"{self.max_seconds:.1f} s",
                "cut it first; Analyzer cuts at quiet places",
            )
        if self.variable_length:
            samples = max(len(wave), round(self.min_seconds * SAMPLE_RATE))
            samples += round(self.trailing_silence * SAMPLE_RATE)
            samples = -(-samples // (2 * HOP)) * 2 * HOP
            padded = np.zeros(min(samples, self.feature_extractor.n_samples), dtype=np.float32)
            padded[: len(wave)] = wave
            made = self.feature_extractor(
                padded, sampling_rate=SAMPLE_RATE, padding="longest", truncation=False
            )
        else:
            made = self.feature_extractor(wave, sampling_rate=SAMPLE_RATE)
        features = torch.as_tensor(np.asarray(made["input_features"][0]))
        return features, -(-len(wave) // HOP)

    def prepare_audio(self, waveforms: Sequence[np.ndarray]) -> BatchFeature:
        """Features of several clips, each (samples,) float at 16 kHz.

        Returns:
            `input_features` (batch, mel bins, F) with 0.0 behind each clip's frames, `frames`
            (batch,) and `audio_frames` (batch,) long: all frames, and those of the clip itself.
        """
        return collate([self.features(waveform) for waveform in waveforms])

    def __call__(
        self,
        audio: Waveform | Sequence[Waveform] | None = None,
        sampling_rate: int | None = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
        **kwargs: object,
    ) -> BatchFeature:
        """Inputs for the model.

        Args:
            audio: one waveform (samples,) or (1, samples), array or tensor, or a list of them.
            sampling_rate: of the waveforms in Hz; has to be 16,000.
            text: transcripts, whose token ids become `labels` (batch, tokens), -100 behind them.
            return_tensors: "pt" is what there is.

        Raises:
            AudioError: no audio, a wrong rate or shape, NaN.
            UsageError: an argument is not known.
        """
        refuse_others(kwargs, return_tensors, "text")
        inputs = self.prepare_audio(read_waveforms(audio, sampling_rate))
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            rows = [torch.tensor(self.tokenizer(item)["input_ids"]) for item in texts]
            inputs["labels"] = torch.nn.utils.rnn.pad_sequence(
                rows, batch_first=True, padding_value=-100
            )
        return inputs

    @property
    def model_input_names(self) -> list[str]:
        return ["input_features", "frames", "audio_frames"]


def collate(clips: Sequence[tuple[torch.Tensor, int]]) -> BatchFeature:
    """A batch from what `WhisperMetaProcessor.features` gives for each clip."""
    frames = [features.shape[-1] for features, _ in clips]
    batch = clips[0][0].new_zeros(len(clips), len(clips[0][0]), max(frames))
    for row, (features, _) in enumerate(clips):
        batch[row, :, : frames[row]] = features
    return BatchFeature(
        {
            "input_features": batch,
            "frames": torch.tensor(frames),
            "audio_frames": torch.tensor([count for _, count in clips]),
        }
    )


__all__ = ["SAMPLE_RATE", "WhisperMetaProcessor", "collate"]
