"""SpeechLLM: an audio encoder, a CNN connector and a Llama decoder.

Knows tensors only: decoding of files, prompts and text is the processor's, the
generation of records is `speechmeta.decoding`'s.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from speechmeta.models.audio_decoder import AudioDecoderMixin
from speechmeta.models.speechllm.configuration_speechllm import SpeechLLMConfig
from speechmeta.models.speechllm.wavlm_attention import use_sdpa

if TYPE_CHECKING:
    import numpy as np

    from speechmeta.schema import SpeakerMeta


Lengths = TypeVar("Lengths", int, torch.Tensor)


@dataclass
class AudioFeatures(ModelOutput):
    """What `get_audio_features` returns.

    Attributes:
        embeds: (batch, n, decoder width), one row per audio position of the prompt.
        lengths: (batch,) long, how many of the n rows are real.
        encoder_hidden: (batch, frames, encoder width), the encoder's last hidden state.
        encoder_lengths: (batch,) long, how many frames are real.
    """

    # transformers wants a default for every field; these two are always filled.
    embeds: torch.Tensor = None  # type: ignore[assignment]
    lengths: torch.Tensor = None  # type: ignore[assignment]
    encoder_hidden: torch.Tensor | None = None
    encoder_lengths: torch.Tensor | None = None


@dataclass
class SpeechLLMOutput(CausalLMOutputWithPast):
    """Output of the decoder, with the audio features where the audio was encoded."""

    audio_features: AudioFeatures | None = None


def conv_lengths(lengths: Lengths, kernels: Sequence[int], strides: Sequence[int]) -> Lengths:
    """How many outputs a stack of convolutions without padding gives; int or long tensor."""
    for kernel, stride in zip(kernels, strides, strict=True):
        lengths = (lengths - kernel) // stride + 1
    return lengths


class SpeechLLMConnector(nn.Module):
    """SpeechLLM's CNN connector: three convolutions without padding, a ReLU before each.

    Halves the frame rate. Source: skit-ai/SpeechLLM `model/connector.py` at f44d361.
    """

    def __init__(self, config: SpeechLLMConfig) -> None:
        super().__init__()
        width_in, width_out = config.audio_config.hidden_size, config.text_config.hidden_size
        kernel = config.connector_kernel_size
        self.kernels = (kernel, kernel, kernel)
        self.strides = (1, config.connector_stride, 1)
        self.conv_in = nn.Conv1d(width_in, width_out // 2, kernel)
        self.conv_down = nn.Conv1d(width_out // 2, width_out, kernel, config.connector_stride)
        self.conv_out = nn.Conv1d(width_out, width_out, kernel)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, frames, encoder width) to (batch, positions, decoder width)."""
        # Not under autocast: oneDNN's bfloat16 gradient of a strided convolution is NaN at some
        # lengths (torch 2.11 with AMX: batch 9, 446 frames). Weights in bfloat16 stay so.
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.to(self.conv_in.weight.dtype).transpose(1, 2)
            for conv in (self.conv_in, self.conv_down, self.conv_out):
                hidden = conv(torch.relu(hidden))
            return hidden.transpose(1, 2)

    def output_lengths(self, frames: Lengths) -> Lengths:
        """Positions for a number of frames, an int or a long tensor."""
        return conv_lengths(frames, self.kernels, self.strides)


class SpeechLLMPreTrainedModel(PreTrainedModel):
    config_class = SpeechLLMConfig
    base_model_prefix = "model"
    input_modalities = ("audio", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = [  # noqa: RUF012
        "HubertEncoderLayer",
        "WavLMEncoderLayer",
        "LlamaDecoderLayer",
    ]
    _skip_keys_device_placement = ["cache"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True


class SpeechLLMForConditionalGeneration(
    AudioDecoderMixin, SpeechLLMPreTrainedModel, GenerationMixin
):
    """The whole model; `audio_token_id` in `input_ids` marks the audio positions."""

    audio_inputs = ("input_values", "audio_attention_mask")
    # Encoders are saved with the vector that masks in training, whether or not this config masks.
    _keys_to_ignore_on_load_unexpected = [r"\.masked_spec_embed$"]  # noqa: RUF012

    def __init__(self, config: SpeechLLMConfig) -> None:
        super().__init__(config)
        self.audio_tower = AutoModel.from_config(config.audio_config, trust_remote_code=False)
        use_sdpa(self.audio_tower)
        self.multi_modal_projector = SpeechLLMConnector(config)
        self.language_model = AutoModelForCausalLM.from_config(
            config.text_config, trust_remote_code=False
        )
        self.post_init()

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        # transformers would save a model that was loaded with a `key_mapping` by its old names,
        # which this class does not read without it.
        super().save_pretrained(save_directory, **{"save_original_format": False, **kwargs})

    def num_encoder_frames(self, samples: Lengths) -> Lengths:
        """Encoder frames for a number of 16 kHz samples, an int or a long tensor."""
        audio = self.config.audio_config
        return conv_lengths(samples, audio.conv_kernel, audio.conv_stride)

    def get_audio_features(
        self, input_values: torch.Tensor, audio_attention_mask: torch.Tensor | None = None
    ) -> AudioFeatures:
        """Encodes waveforms into rows for the decoder.

        Args:
            input_values: (batch, samples) float, normalised by the processor.
            audio_attention_mask: (batch, samples) long, 1 where samples are real; padding on
                the right. None: all are.

        Raises:
            ValueError: a waveform is too short for a single audio position.
        """
        samples = input_values.shape[1]
        if audio_attention_mask is None:
            lengths = torch.full((len(input_values),), samples, device=input_values.device)
            mask = None
        else:
            lengths = audio_attention_mask.long().sum(-1)
            # The reference encodes without a mask, and where nothing is padded none is needed.
            mask = audio_attention_mask if bool((lengths < samples).any()) else None
        frames = self.num_encoder_frames(lengths)
        positions = self.multi_modal_projector.output_lengths(frames)
        if int(positions.min()) < 1:
            raise ValueError(
                f"a waveform of {int(lengths.min())} samples is too short for the encoder"
            )
        encoded = self.audio_tower(input_values.to(self._audio_dtype()), attention_mask=mask)
        hidden = encoded.last_hidden_state
        return AudioFeatures(
            embeds=self.multi_modal_projector(hidden),
            lengths=positions,
            encoder_hidden=hidden,
            encoder_lengths=frames,
        )

    def _audio_dtype(self) -> torch.dtype:
        if hasattr(self.audio_tower, "input_dtype"):
            return self.audio_tower.input_dtype  # type: ignore[no-any-return]
        # A quantised or LoRA-wrapped tower has no single dtype; the front-end convolution's counts.
        dtype: torch.dtype = self.audio_tower.feature_extractor.conv_layers[0].conv.weight.dtype
        return dtype

    def merge_inputs(
        self, input_ids: torch.Tensor, audio_embeds: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Embeds ids and puts audio rows where `audio_token_id` stands.

        Args:
            input_ids: (batch, tokens).
            audio_embeds: (batch, n, width) and `lengths` (batch,) as from `get_audio_features`.

        Returns:
            (batch, tokens, width).

        Raises:
            ValueError: a row has more or fewer audio positions than its audio has.
        """
        places = input_ids == self.config.audio_token_id
        counts = places.sum(-1)
        if not torch.equal(counts, lengths.to(counts.device)):
            raise ValueError(
                f"input_ids have {counts.tolist()} audio positions, the audio has "
                f"{lengths.tolist()}"
            )
        embeds: torch.Tensor = self.get_input_embeddings()(input_ids.masked_fill(places, 0))
        real = torch.arange(audio_embeds.shape[1], device=audio_embeds.device) < lengths[:, None]
        return embeds.masked_scatter(places[..., None], audio_embeds[real].to(embeds.dtype))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        audio_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> SpeechLLMOutput:
        """Logits of the decoder.

        Args:
            input_ids: (batch, tokens), left padded; `audio_token_id` at audio positions.
            attention_mask: (batch, tokens).
            input_values: (batch, samples), `audio_attention_mask` (batch, samples): the audio,
                needed where `input_ids` have audio positions (the first step of `generate`).
            inputs_embeds: (batch, tokens, width) in place of all of these.
            labels: (batch, tokens) ids, -100 where no loss is wanted.

        Raises:
            ValueError: audio positions and audio do not fit each other.
        """
        features = None
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("either input_ids or inputs_embeds is needed")
            if input_values is not None:
                features = self.get_audio_features(input_values, audio_attention_mask)
                inputs_embeds = self.merge_inputs(input_ids, features.embeds, features.lengths)
            else:
                inputs_embeds = self.embed_text(input_ids)
        decoded = self.run_decoder(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        return SpeechLLMOutput(**decoded, audio_features=features)

    def generate_meta(
        self,
        audio_path: str | Path | None = None,
        audio_tensor: torch.Tensor | np.ndarray | None = None,
        instruction: str | None = None,
        max_new_tokens: int = 2000,
        return_special_tokens: bool = False,
    ) -> SpeakerMeta | str:
        """Analyses one clip, with the signature of the published checkpoints' own class.

        Args:
            audio_path: a file of any rate.
            audio_tensor: (samples,) or (1, samples) at 16 kHz, in place of `audio_path`.
            instruction: the prompt's instruction; the fields that it names in square brackets
                are asked for. None: all six.
            max_new_tokens: most tokens of the transcript.
            return_special_tokens: return the decoder's raw text in place of `SpeakerMeta`.

        Raises:
            SpeechMetaError: no audio or both kinds were given, or it cannot be used.
        """
        from speechmeta.models.speechllm.compat import generate_meta

        return generate_meta(
            self, audio_path, audio_tensor, instruction, max_new_tokens, return_special_tokens
        )


__all__ = [
    "AudioFeatures",
    "SpeechLLMConnector",
    "SpeechLLMForConditionalGeneration",
    "SpeechLLMPreTrainedModel",
]
