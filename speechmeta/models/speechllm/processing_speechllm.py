"""From a waveform and an instruction to the tensors that SpeechLLM takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from speechmeta.decoding.layout import TextLayout
from speechmeta.errors import UsageError
from speechmeta.models.speechllm.configuration_speechllm import SpeechLLMConfig
from speechmeta.models.waveforms import (
    SAMPLE_RATE,
    Waveform,
    checked_waveform,
    read_waveforms,
    refuse_others,
)
from speechmeta.schema import FIELDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Wav2Vec2FeatureExtractor


class SpeechLLMProcessor(ProcessorMixin):
    """Normalises waveforms and builds prompts with exact counts of audio positions.

    The pieces of a prompt are tokenized one by one, without special tokens, as the published
    checkpoints' code does: tokens never merge across the audio.

    Args:
        feature_extractor: a `Wav2Vec2FeatureExtractor`.
        tokenizer: the decoder's tokenizer; it is not changed.
        layout: `TextLayout` as a dict.
        audio_token_id: the placeholder id of `SpeechLLMConfig`.
        conv_kernels, conv_strides: all convolutions between samples and audio positions, the
            encoder's first and the connector's after them.
        margin_samples: silence added on both sides of every waveform. The connector's
            convolutions have no padding and lose frames at both ends; a checkpoint trained
            with a margin keeps its first and last words.
    """

    def __init__(
        self,
        feature_extractor: Wav2Vec2FeatureExtractor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        layout: dict[str, Any] | None = None,
        audio_token_id: int = 0,
        conv_kernels: Sequence[int] = (),
        conv_strides: Sequence[int] = (),
        margin_samples: int = 0,
    ) -> None:
        self.layout_dict = dict(layout or {})
        self.audio_token_id = audio_token_id
        self.conv_kernels = list(conv_kernels)
        self.conv_strides = list(conv_strides)
        self.margin_samples = margin_samples
        super().__init__(feature_extractor, tokenizer)

    @classmethod
    def for_config(
        cls,
        config: SpeechLLMConfig,
        feature_extractor: Wav2Vec2FeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        margin_samples: int = 0,
    ) -> SpeechLLMProcessor:
        """The processor that fits a model's config."""
        kernel = config.connector_kernel_size
        return cls(
            feature_extractor=feature_extractor,
            tokenizer=tokenizer,
            layout=config.layout,
            audio_token_id=cast(int, config.audio_token_id),
            conv_kernels=[*config.audio_config.conv_kernel, kernel, kernel, kernel],
            conv_strides=[*config.audio_config.conv_stride, 1, config.connector_stride, 1],
            margin_samples=margin_samples,
        )

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "layout": self.layout_dict}

    @property
    def layout(self) -> TextLayout:
        """The text layout of the checkpoint."""
        return TextLayout.from_dict(self.layout_dict)

    def num_audio_tokens(self, samples: int) -> int:
        """Audio positions of this many 16 kHz samples, margin and padding included."""
        count = max(samples + 2 * self.margin_samples, self.min_samples)
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            count = (count - kernel) // stride + 1
        return count

    @property
    def min_samples(self) -> int:
        """The fewest samples that give one audio position; shorter audio is padded to it."""
        count = 1
        for kernel, stride in zip(
            reversed(self.conv_kernels), reversed(self.conv_strides), strict=True
        ):
            count = (count - 1) * stride + kernel
        return count

    def instruction_for(self, fields: Sequence[str] = FIELDS) -> str:
        """The checkpoint's default instruction that asks for these fields."""
        return self.layout.instruction_for(fields)

    def prompt_ids(self, instruction: str | None = None) -> tuple[list[int], list[int]]:
        """Token ids before and after the audio.

        Raises:
            UsageError: the checkpoint takes no instruction, but one was given.
        """
        layout = self.layout
        if instruction and not layout.instruction:
            raise UsageError(
                "this checkpoint was trained without instructions and takes none",
                "leave the instruction out, and choose what is written by the fields",
            )
        if instruction is None:
            instruction = self.instruction_for()
        before = layout.prompt_before.replace("{instruction}", instruction)
        pieces = [
            self.tokenizer(piece, add_special_tokens=False)["input_ids"]
            for piece in (before, *layout.prompt_after)
        ]
        return pieces[0], [token for piece in pieces[1:] for token in piece]

    def prepare_audio(self, waveforms: Sequence[np.ndarray]) -> BatchFeature:
        """Normalises and pads waveforms, each (samples,) float at 16 kHz.

        Returns:
            `input_values` and `audio_attention_mask`, both (batch, samples), as tensors.
        """
        normalised = []
        for waveform in waveforms:
            wave = checked_waveform(waveform)
            values = self.feature_extractor(wave, sampling_rate=SAMPLE_RATE)["input_values"][0]
            # Silence goes on after normalisation: zero is the mean there, and a short clip's
            # statistics are its own.
            after = max(self.margin_samples, self.min_samples - len(wave) - self.margin_samples)
            normalised.append(np.pad(values, (self.margin_samples, after)))
        padded: BatchFeature = self.feature_extractor.pad(
            {"input_values": normalised},
            padding=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        padded["audio_attention_mask"] = padded.pop("attention_mask").long()
        return padded

    def __call__(
        self,
        audio: Waveform | Sequence[Waveform] | None = None,
        sampling_rate: int | None = None,
        instruction: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
        **kwargs: object,
    ) -> BatchFeature:
        """Inputs for which `model(**inputs).logits[:, -1]` are the next token's logits.

        Args:
            audio: one waveform (samples,) or (1, samples), array or tensor, or a list of them.
            sampling_rate: of the waveforms in Hz; has to be 16,000.
            instruction: one for all waveforms, or one each; None for the checkpoint's default.
            return_tensors: "pt" is what there is.

        Returns:
            `input_values`, `audio_attention_mask` (batch, samples), and `input_ids`,
            `attention_mask` (batch, tokens), padded on the left.

        Raises:
            AudioError: no audio, a wrong rate or shape, NaN.
            UsageError: an argument is not known.
        """
        import torch

        refuse_others(kwargs, return_tensors, "instruction")
        waveforms = read_waveforms(audio, sampling_rate)
        if instruction is None or isinstance(instruction, str):
            instructions: list[str | None] = [instruction] * len(waveforms)
        else:
            instructions = list(instruction)
        if len(instructions) != len(waveforms):
            raise UsageError(
                f"{len(waveforms)} waveforms have {len(instructions)} instructions",
                "give one for all, or one each",
            )
        inputs = self.prepare_audio(waveforms)
        rows = []
        for waveform, text in zip(waveforms, instructions, strict=True):
            before, after = self.prompt_ids(text)
            places = [self.audio_token_id] * self.num_audio_tokens(len(waveform))
            rows.append([*before, *places, *after])
        width = max(map(len, rows))
        filler = self.tokenizer.pad_token_id
        filler = self.tokenizer.eos_token_id if filler is None else filler
        inputs["input_ids"] = torch.tensor([[filler] * (width - len(r)) + r for r in rows])
        inputs["attention_mask"] = torch.tensor(
            [[0] * (width - len(r)) + [1] * len(r) for r in rows]
        )
        return inputs


__all__ = ["SAMPLE_RATE", "SpeechLLMProcessor"]
