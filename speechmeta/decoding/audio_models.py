"""What the engine needs of a model that takes audio, and of its processor, whatever their family.

`SpeechLLMForConditionalGeneration` and `SpeechLLMProcessor` are such a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from speechmeta.decoding.layout import TextLayout
from speechmeta.schema import LabelSets

if TYPE_CHECKING:
    from transformers import (
        BatchFeature,
        PreTrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )


class AudioFeatures(Protocol):
    """A batch of clips after the encoder.

    Attributes:
        embeds: (batch, n, decoder width). lengths: (batch,), how many of the n rows are real.
    """

    @property
    def embeds(self) -> torch.Tensor: ...

    @property
    def lengths(self) -> torch.Tensor: ...


class AudioModelConfig(Protocol):
    """A model's config: its parts', and the values that each label can take."""

    @property
    def audio_config(self) -> PreTrainedConfig: ...

    @property
    def label_sets(self) -> LabelSets: ...


class AudioModel(Protocol):
    """A causal language model behind an audio encoder, in evaluation mode."""

    @property
    def config(self) -> AudioModelConfig: ...

    @property
    def language_model(self) -> PreTrainedModel: ...

    def get_input_embeddings(self) -> torch.nn.Module:
        """The decoder's embedding table."""
        ...

    def get_audio_features(
        self, input_values: torch.Tensor, audio_attention_mask: torch.Tensor | None = None, /
    ) -> AudioFeatures:
        """Encodes waveforms (batch, samples), of which a mask of the same shape is real."""
        ...


class AudioProcessor(Protocol):
    """What stands around the audio in a prompt, and how waveforms are prepared."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    @property
    def layout(self) -> TextLayout: ...

    def instruction_for(self, fields: Sequence[str], /) -> str:
        """The checkpoint's instruction that asks for these fields; empty where it takes none."""
        ...

    def prompt_ids(self, instruction: str | None, /) -> tuple[list[int], list[int]]:
        """Token ids before and after the audio."""
        ...

    def prepare_audio(self, waveforms: Sequence[np.ndarray], /) -> BatchFeature:
        """`input_values` of waveforms, each (samples,) at 16 kHz."""
        ...
