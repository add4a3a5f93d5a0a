"""DeSTA2 and DeSTA2.5-Audio: Whisper as ear, a Q-Former as bridge, Llama 3 as mind.

Knows tensors only. The connector always computes in float32, Whisper does unless it was loaded
otherwise; the decoder has whatever type it was loaded in. Sources: arXiv 2409.20007 (DeSTA2),
arXiv 2507.02768 (DeSTA2.5-Audio); behaviour held against recorded results of the published code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedModel,
    WhisperForConditionalGeneration,
)
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast
from transformers.utils import ModelOutput

from speechmeta.models.audio_decoder import AudioDecoderMixin
from speechmeta.models.desta2.configuration_desta2 import DestaConfig


@dataclass
class DestaAudioFeatures(ModelOutput):
    """What `get_audio_features` returns.

    Attributes:
        embeds: (windows, prompt_size, decoder width), float32.
        tapped: (states, windows, frames, encoder width), what the connector reads.
        last_hidden_state: (windows, frames, encoder width) after the encoder's final norm,
            which Whisper's decoder takes, so that the transcript needs no second encoding.
    """

    # transformers wants a default for every field; all three are always filled.
    embeds: torch.Tensor = None  # type: ignore[assignment]
    tapped: torch.Tensor = None  # type: ignore[assignment]
    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]


@dataclass
class DestaOutput(CausalLMOutputWithPast):
    """Output of the decoder, with the audio rows where audio was encoded."""

    audio_embeds: torch.Tensor | None = None


class _Projections(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)


class _AddAndNorm(nn.Module):
    """Projection, dropout, residual and LayerNorm, in BERT's post-norm order."""

    def __init__(self, width_in: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.LayerNorm(self.dropout(self.dense(hidden)) + residual)
        return result


class QFormerAttention(nn.Module):
    """Multi-head attention without a mask: among the queries it is bidirectional."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.self = _Projections(width)
        self.output = _AddAndNorm(width, width, dropout)

    def forward(self, hidden: torch.Tensor, states: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, queries, width), attending to `states` (batch, n, width) or to itself."""
        source = hidden if states is None else states
        query, key, value = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, x in (
                (self.self.query, hidden),
                (self.self.key, source),
                (self.self.value, source),
            )
        )
        mixed = nn.functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0, is_causal=False
        )
        result: torch.Tensor = self.output(mixed.transpose(1, 2).flatten(2), hidden)
        return result


class _Intermediate(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, inner)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(self.dense(hidden))


class QFormerLayer(nn.Module):
    """Self-attention, cross-attention to the audio, feed-forward."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention = QFormerAttention(width, heads, dropout)
        self.crossattention = QFormerAttention(width, heads, dropout)
        self.intermediate = _Intermediate(width, inner)
        self.output = _AddAndNorm(inner, width, dropout)

    def forward(self, hidden: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        hidden = self.crossattention(self.attention(hidden), states)
        result: torch.Tensor = self.output(self.intermediate(hidden), hidden)
        return result


class QFormer(nn.Module):
    def __init__(self, config: DestaConfig) -> None:
        super().__init__()
        audio = config.audio_config
        self.layer = nn.ModuleList(
            QFormerLayer(
                audio.d_model,
                audio.encoder_attention_heads,
                config.qformer_intermediate_size,
                config.qformer_dropout,
            )
            for _ in range(config.qformer_layers)
        )

    def forward(self, hidden: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        for layer in self.layer:
            hidden = layer(hidden, states)
        return hidden


class DestaConnector(nn.Module):
    """`prompt_size` learned queries per tapped state, one shared Q-Former, mixed over states.

    Parameter names are those of the published checkpoints.
    """

    def __init__(self, config: DestaConfig) -> None:
        super().__init__()
        width, count = config.audio_config.d_model, len(config.tapped_states or ())
        self.layer_prompts = nn.ParameterList(
            nn.Parameter(torch.empty(1, config.prompt_size, width)) for _ in range(count)
        )
        self.layer_weights = nn.Parameter(torch.zeros(config.prompt_size, count))
        self.qformer = QFormer(config)
        self.proj = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, config.text_config.hidden_size)
        )

    def layer_mix(self) -> torch.Tensor:
        """(prompt_size, states): each row's share of every tapped state."""
        return self.layer_weights.softmax(-1)

    def forward(self, tapped: torch.Tensor) -> torch.Tensor:
        """(states, windows, frames, encoder width) to (windows, prompt_size, decoder width)."""
        windows = tapped.shape[1]
        seen = torch.stack(
            [
                self.qformer(prompt.expand(windows, -1, -1), states)
                for prompt, states in zip(self.layer_prompts, tapped, strict=True)
            ]
        )
        mixed = torch.einsum("swqd,qs->wqd", seen, self.layer_mix())
        result: torch.Tensor = self.proj(mixed)
        return result


class DestaPreTrainedModel(PreTrainedModel):
    config_class = DestaConfig
    base_model_prefix = "model"
    input_modalities = ("audio", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["WhisperEncoderLayer", "WhisperDecoderLayer", "LlamaDecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["cache"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True
    # The published code keeps both in float32 whatever the decoder's type is.
    _keep_in_fp32_modules_strict = {"audio_tower", "multi_modal_projector"}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DestaConnector):
            for prompt in module.layer_prompts:
                nn.init.normal_(prompt)
            nn.init.zeros_(module.layer_weights)


class DestaForConditionalGeneration(AudioDecoderMixin, DestaPreTrainedModel, GenerationMixin):
    """The whole model; `audio_token_id` in `input_ids` marks the audio rows."""

    audio_inputs = ("input_features", "audio_embeds")

    def __init__(self, config: DestaConfig) -> None:
        super().__init__(config)
        self.audio_tower = WhisperForConditionalGeneration(config.audio_config)
        self.multi_modal_projector = DestaConnector(config)
        self.language_model = AutoModelForCausalLM.from_config(
            config.text_config, trust_remote_code=False
        )
        self.post_init()

    def get_audio_features(self, input_features: torch.Tensor) -> DestaAudioFeatures:
        """Encodes windows of 30 s into rows for the decoder.

        Args:
            input_features: (windows, mel bins, 3000) log-mel of Whisper's feature extractor.
        """
        encoder = self.audio_tower.get_encoder()
        outputs = encoder(
            input_features.to(next(encoder.parameters()).dtype), output_hidden_states=True
        )
        states = list(outputs.hidden_states)
        if not self.config.final_norm and len(states) - 1 in self.config.tapped_states:
            states[-1] = self._last_before_norm(states[-2])
        # Whisper may be in 16 bits to save memory; the connector stays in float32.
        tapped = torch.stack([states[index] for index in self.config.tapped_states]).to(
            self.multi_modal_projector.layer_weights.dtype
        )
        return DestaAudioFeatures(
            embeds=self.multi_modal_projector(tapped),
            tapped=tapped,
            last_hidden_state=outputs.last_hidden_state,
        )

    def _last_before_norm(self, hidden: torch.Tensor) -> torch.Tensor:
        # transformers reports the last state after the final norm; running the last layer once
        # more is cheaper to keep right than a hook into Whisper's internals.
        result = self.audio_tower.get_encoder().layers[-1](hidden, None)
        last: torch.Tensor = result[0] if isinstance(result, tuple) else result
        return last

    @torch.no_grad()
    def transcribe(self, last_hidden_state: torch.Tensor, **options: Any) -> torch.Tensor:
        """Whisper's token ids (windows, tokens) for encoded windows; see its `generate`."""
        ids: torch.Tensor = self.audio_tower.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=last_hidden_state), **options
        )
        return ids

    def merge_inputs(self, input_ids: torch.Tensor, audio_embeds: torch.Tensor) -> torch.Tensor:
        """Embeds ids and puts audio rows, in order, where `audio_token_id` stands.

        Args:
            input_ids: (batch, tokens).
            audio_embeds: (windows, prompt_size, width) or (rows, width).

        Returns:
            (batch, tokens, width) in the decoder's type.

        Raises:
            ValueError: the number of audio positions is not that of the rows.
        """
        places = input_ids == self.config.audio_token_id
        rows = audio_embeds.reshape(-1, audio_embeds.shape[-1])
        if int(places.sum()) != len(rows):
            raise ValueError(
                f"input_ids have {int(places.sum())} audio positions, the audio has {len(rows)}"
            )
        embeds = self.get_input_embeddings()(input_ids.masked_fill(places, 0))
        merged: torch.Tensor = embeds.masked_scatter(
            places[..., None], rows.to(embeds.device, embeds.dtype)
        )
        return merged

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        audio_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> DestaOutput:
        """Logits of the decoder.

        Args:
            input_ids: (batch, tokens); `audio_token_id` at audio positions.
            attention_mask: (batch, tokens).
            input_features: (windows, mel bins, 3000), in the order of the audio positions; or
            audio_embeds: their rows, encoded before.
            inputs_embeds: (batch, tokens, width) in place of all of these.
            labels: (batch, tokens) ids, -100 where no loss is wanted.

        Raises:
            ValueError: audio positions and audio do not fit each other.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("either input_ids or inputs_embeds is needed")
            if input_features is not None:
                audio_embeds = self.get_audio_features(input_features).embeds
            if audio_embeds is not None:
                inputs_embeds = self.merge_inputs(input_ids, audio_embeds)
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
        return DestaOutput(**decoded, audio_embeds=audio_embeds)


__all__ = [
    "DestaAudioFeatures",
    "DestaConnector",
    "DestaForConditionalGeneration",
    "DestaPreTrainedModel",
]
