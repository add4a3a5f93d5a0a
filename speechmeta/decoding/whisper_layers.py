"""The layers of Whisper's decoder with nothing but their arithmetic.

At one token a pass, the modules' own calls cost as much as what they compute, and in bfloat16 on a
CPU every product packs its weights anew. The same layers, called from here, multiply once where
modules read the same input, with weights that are packed once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from speechmeta.decoding import products
from speechmeta.decoding.products import Product

if TYPE_CHECKING:
    from speechmeta.decoding.decoders import MemoryCache


class WhisperLayers:
    """Runs a transformers `WhisperDecoder` for inference.

    The joined copies of a small model's weights are made once: later changes of the model's
    weights are not seen.

    Args:
        decoder: the model; `fits` tells whether it is one.
    """

    def __init__(self, decoder: WhisperDecoder) -> None:
        self._decoder = decoder
        first = decoder.layers[0].self_attn
        self._heads, self._width = first.num_heads, first.head_dim
        self._scale = first.scaling
        size = sum(weight.nbytes for weight in decoder.layers.parameters())
        copied = size <= products.MOST_COPIED
        self._products = []
        for layer in decoder.layers:
            own, cross = layer.self_attn, layer.encoder_attn
            groups = (
                (own.q_proj, own.k_proj, own.v_proj),
                (own.out_proj,),
                (cross.q_proj,),
                (cross.out_proj,),
                (layer.fc1,),
                (layer.fc2,),
            )
            self._products.append([Product(modules, copied) for modules in groups])

    @staticmethod
    def fits(decoder: Any) -> bool:
        """Whether a decoder is Whisper's with fused attention, whose arithmetic this is."""
        return (
            type(decoder) is WhisperDecoder
            and decoder.config._attn_implementation == "sdpa"
            and decoder.config.activation_function == "gelu"
            and not decoder.training
        )

    def __call__(
        self,
        embeds: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: MemoryCache,
        queries: Mapping[int, list[torch.Tensor]],
    ) -> torch.Tensor:
        """The last hidden states, normalised.

        Args:
            embeds: (rows, tokens, width).
            mask: (rows, 1, tokens, slots) bool, what each token sees.
            positions: (rows, tokens).
            cache: takes the new keys and values.
            queries: by layer, a list that takes the cross attention's queries
                (rows, tokens, width).
        """
        hidden = embeds + self._decoder.embed_positions.weight[positions]
        for number, layer in enumerate(self._decoder.layers):
            joined, out, query, cross_out, grow, shrink = self._products[number]
            parts = joined(_norm(layer.self_attn_layer_norm, hidden))
            own, keys, values = (self._split(part) for part in parts.chunk(3, -1))
            keys, values = cache.text.update(keys, values, number)
            hidden = hidden + out(self._attend(own, keys, values, mask))
            cross = query(_norm(layer.encoder_attn_layer_norm, hidden))
            if number in queries:
                queries[number].append(cross)
            attended = self._attend(
                self._split(cross), cache.keys(number), cache.values(number), cache.seen
            )
            hidden = hidden + cross_out(attended)
            inner = functional.gelu(grow(_norm(layer.final_layer_norm, hidden)))
            hidden = hidden + shrink(inner)
        return _norm(self._decoder.layer_norm, hidden)

    def _split(self, joined: torch.Tensor) -> torch.Tensor:
        """(rows, tokens, width) to (rows, heads, tokens, head width)."""
        return joined.view(*joined.shape[:2], self._heads, self._width).transpose(1, 2)

    def _attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        attended = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, scale=self._scale
        )
        return attended.transpose(1, 2).flatten(2)


def _norm(norm: nn.LayerNorm, hidden: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(hidden, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
