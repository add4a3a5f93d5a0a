"""What the engine needs of a decoder: two adapters around transformers' own classes.

A causal decoder reads the audio as part of its prompt; a cross-attention decoder reads text only
and looks at the encoder's states, its memory, in every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache

from speechmeta.decoding.cache import SlotCache
from speechmeta.decoding.products import Product
from speechmeta.decoding.shortlist import Shortlist
from speechmeta.decoding.whisper_layers import WhisperLayers
from speechmeta.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, WhisperForConditionalGeneration

    from speechmeta.decoding.inputs import Prompt


class DecoderCache(Protocol):
    """Keys and values of a batch."""

    def select(self, rows: torch.Tensor) -> None:
        """Keeps some rows, in the given order; a row may be given more than once."""


C = TypeVar("C", bound=DecoderCache)


class Decoder(Protocol[C]):
    """A decoder as the engine sees it.

    Attributes:
        layers: how many it has.
        max_positions: the longest text, prompt included, in tokens.
    """

    layers: int
    max_positions: int

    @property
    def device(self) -> torch.device:
        """Where ids have to be."""

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings (rows, tokens, width) of ids (rows, tokens), positions not included."""

    def start(self, prompts: Sequence[Prompt], slots: int) -> C:
        """The cache of a batch before its first pass, with room for this many tokens."""

    def forward(
        self, embeds: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: C
    ) -> torch.Tensor:
        """The last hidden states (rows, tokens, width), normalised.

        Args:
            embeds: (rows, tokens, width).
            mask: (rows, 1, tokens, slots) bool, which slots each token sees; its own are the last.
            positions: (rows, tokens).
            cache: takes the new keys and values.
        """

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (places, vocabulary) of hidden states (places, width)."""

    def likeliest(
        self, hidden: torch.Tensor, wanted: Sequence[tuple[int, int]] = ()
    ) -> torch.Tensor:
        """The same, where only the likeliest logits, the `wanted` ones (place, token) and the sum
        of all have to be right."""


def _takes_masks(config: PreTrainedConfig) -> bool:
    """Whether masks have to be added rather than given as bool.

    Raises:
        ModelError: the attention implementation takes no mask of its own.
    """
    implementation = config._attn_implementation
    if implementation not in ("sdpa", "eager"):
        raise ModelError(
            f"the decoder's attention implementation is {implementation!r}",
            "load the model with attn_implementation='sdpa'",
        )
    return bool(implementation == "eager")


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill(~mask, torch.finfo(dtype).min)


class CausalDecoder:
    """A causal language model of transformers, whose prompt holds the audio.

    Args:
        language_model: with full attention.
    """

    def __init__(self, language_model: PreTrainedModel) -> None:
        config = language_model.config
        self._decoder = language_model.get_decoder()
        self._embed = language_model.get_input_embeddings()
        self._head = language_model.get_output_embeddings()
        self._add = _takes_masks(self._decoder.config)
        self.layers = int(config.num_hidden_layers)
        self.max_positions = int(config.max_position_embeddings)

    @property
    def device(self) -> torch.device:
        device: torch.device = self._embed.weight.device
        return device

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        embeds: torch.Tensor = self._embed(ids)
        return embeds

    def start(self, prompts: Sequence[Prompt], slots: int) -> SlotCache:
        return SlotCache(self.layers, slots)

    def forward(
        self, embeds: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: SlotCache
    ) -> torch.Tensor:
        output = self._decoder(
            inputs_embeds=embeds,
            attention_mask=_additive(mask, embeds.dtype) if self._add else mask,
            position_ids=positions,
            cache=cache,
            use_cache=True,
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._head(hidden)
        return logits

    def likeliest(
        self, hidden: torch.Tensor, wanted: Sequence[tuple[int, int]] = ()
    ) -> torch.Tensor:
        return self.head(hidden)


class MemoryCache:
    """Keys and values of a cross-attention decoder: of its text, and of the memory.

    Attributes:
        both: as transformers' layers take them.
        text: the text's, which grow.
        seen: (rows, 1, 1, memory positions) bool, or None where every row fills the memory.
    """

    def __init__(self, text: SlotCache, memory: DynamicCache, seen: torch.Tensor | None) -> None:
        self.both = EncoderDecoderCache(text, memory)
        self.text = text
        self.seen = seen
        self._memory = memory
        self._owners: list[int] | None = None

    def keys(self, layer: int) -> torch.Tensor:
        """(rows, heads, memory positions, head width), of the memory."""
        keys: torch.Tensor = self._memory.layers[layer].keys
        return keys

    def values(self, layer: int) -> torch.Tensor:
        """(rows, heads, memory positions, head width), of the memory."""
        values: torch.Tensor = self._memory.layers[layer].values
        return values

    def select(self, rows: torch.Tensor) -> None:
        """Keeps some rows, in the given order; a row may be given more than once."""
        self.text.select(rows)
        # Rows that change places within one clip, as beams do, look at the same memory.
        numbers = rows.tolist()
        owners = numbers if self._owners is None else [self._owners[row] for row in numbers]
        if owners == self._owners:
            return
        self._owners = owners
        for layer in self._memory.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        if self.seen is not None:
            self.seen = self.seen[rows]


class CrossAttentionDecoder:
    """The decoder of a Whisper model; prompts bring the encoder's states as their memory.

    Args:
        whisper: in evaluation mode.
        fast: whether its layers may run without the overhead of their modules.
    """

    def __init__(self, whisper: WhisperForConditionalGeneration, fast: bool = True) -> None:
        self._decoder = whisper.get_decoder()
        self._add = _takes_masks(self._decoder.config)
        fast = fast and WhisperLayers.fits(self._decoder)
        self._fast = WhisperLayers(self._decoder) if fast else None
        head = whisper.get_output_embeddings()
        self._head = Product([head], fast)
        self._shortlist = Shortlist(head) if fast and Shortlist.fits(head) else None
        # `num_hidden_layers` of Whisper's config counts the encoder's.
        self.layers = int(whisper.config.decoder_layers)
        self.max_positions = int(whisper.config.max_target_positions)

    @property
    def device(self) -> torch.device:
        device: torch.device = self._decoder.embed_tokens.weight.device
        return device

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        embeds: torch.Tensor = self._decoder.embed_tokens(ids)
        return embeds

    def start(self, prompts: Sequence[Prompt], slots: int) -> MemoryCache:
        memories = [prompt.memory for prompt in prompts if prompt.memory is not None]
        memory = nn.utils.rnn.pad_sequence(memories, batch_first=True)
        lengths = torch.tensor([len(item) for item in memories], device=memory.device)
        seen = None
        if len({len(item) for item in memories}) > 1:
            places = torch.arange(memory.shape[1], device=memory.device)
            seen = (places < lengths[:, None])[:, None, None]
        fixed = DynamicCache()
        for number, layer in enumerate(self._decoder.layers):
            attention = layer.encoder_attn
            shape = (*memory.shape[:2], attention.num_heads, attention.head_dim)
            keys = attention.k_proj(memory).view(shape).transpose(1, 2).contiguous()
            values = attention.v_proj(memory).view(shape).transpose(1, 2).contiguous()
            fixed.update(keys, values, number)
        return MemoryCache(SlotCache(self.layers, slots), fixed, seen)

    def forward(
        self, embeds: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: MemoryCache
    ) -> torch.Tensor:
        return self._run(embeds, mask, positions, cache, {})

    def _run(
        self,
        embeds: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: MemoryCache,
        queries: dict[int, list[torch.Tensor]],
    ) -> torch.Tensor:
        """A pass; by layer, `queries` takes those of the cross attention."""
        if self._fast is not None:
            return self._fast(embeds, mask, positions, cache, queries)
        # Layer by layer: transformers' decoder takes no mask over its memory.
        decoder, seen = self._decoder, cache.seen
        if self._add:
            mask = _additive(mask, embeds.dtype)
            seen = None if seen is None else _additive(seen, embeds.dtype)
        states = embeds + decoder.embed_positions.weight[positions]
        for number, layer in enumerate(decoder.layers):
            hooks = []
            if number in queries:

                def keep(_: object, __: object, output: torch.Tensor, to: int = number) -> None:
                    queries[to].append(output)

                hooks.append(layer.encoder_attn.q_proj.register_forward_hook(keep))
            try:
                states = layer(
                    states,
                    attention_mask=mask,
                    # Keys and values are in the cache; the layer asks only whether there is one.
                    encoder_hidden_states=states,
                    encoder_attention_mask=seen,
                    cache=cache.both,
                )
            finally:
                for hook in hooks:
                    hook.remove()
        hidden: torch.Tensor = decoder.layer_norm(states)
        return hidden

    def look(
        self,
        embeds: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: MemoryCache,
        heads: Sequence[tuple[int, int]],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where some heads of the cross attention look in a pass; arguments as for `forward`.

        Args:
            heads: (layer, head) of each.

        Returns:
            Scores (rows, heads, tokens, memory positions) before their softmax, and what
            `forward` gives.
        """
        queries: dict[int, list[torch.Tensor]] = {layer: [] for layer, _ in heads}
        hidden = self._run(embeds, mask, positions, cache, queries)
        scores = []
        for layer, head in heads:
            attention = self._decoder.layers[layer].encoder_attn
            own = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
            query = queries[layer][0][..., own] * attention.scaling
            scores.append(query @ cache.keys(layer)[:, head].transpose(1, 2))
        return torch.stack(scores, dim=1), hidden

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._head(hidden)
        return logits

    def likeliest(
        self, hidden: torch.Tensor, wanted: Sequence[tuple[int, int]] = ()
    ) -> torch.Tensor:
        return self.head(hidden) if self._shortlist is None else self._shortlist(hidden, wanted)


__all__ = ["CausalDecoder", "CrossAttentionDecoder", "Decoder", "DecoderCache", "MemoryCache"]
