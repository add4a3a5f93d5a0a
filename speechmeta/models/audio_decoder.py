"""What both model families share: audio rows among text embeddings, and a decoder behind them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


class AudioDecoderMixin:
    """For models with a `language_model` and an `audio_token_id` in their config.

    transformers looks for `GenerationMixin` among a model's own bases, so it stands there.

    Attributes:
        audio_inputs: the arguments of `forward` that carry the audio.
    """

    audio_inputs: ClassVar[tuple[str, ...]] = ()
    language_model: PreTrainedModel
    config: PreTrainedConfig

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.language_model.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.language_model.get_output_embeddings()
        return embeddings

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def get_decoder(self) -> nn.Module:
        decoder: nn.Module = self.language_model.get_decoder()
        return decoder

    def embed_text(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embeds ids (batch, tokens) among which no audio stands.

        Raises:
            ValueError: there are audio positions.
        """
        if bool((input_ids == self.config.audio_token_id).any()):
            raise ValueError("input_ids have audio positions, but there is no audio")
        embeds: torch.Tensor = self.get_input_embeddings()(input_ids)
        return embeds

    def run_decoder(self, **inputs: Any) -> dict[str, Any]:
        """The decoder's outputs, by their names in `CausalLMOutputWithPast`."""
        outputs = self.language_model(**inputs)
        names = ("loss", "logits", "cache", "hidden_states", "attentions")
        return {name: getattr(outputs, name) for name in names}

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, is_first_iteration: bool | None = False, **kwargs: Any
    ) -> dict[str, Any]:
        audio = {name: kwargs.pop(name, None) for name in self.audio_inputs}
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids, is_first_iteration=is_first_iteration, **kwargs
        )
        # The audio is in the cache after the first step; encoding it again would be wrong there.
        if is_first_iteration or not kwargs.get("use_cache", True):
            inputs.update(audio)
        return inputs


__all__ = ["AudioDecoderMixin"]
