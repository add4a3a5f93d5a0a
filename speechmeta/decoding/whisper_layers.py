"""Whisper's layers with nothing but their arithmetic.

At one token a pass, the decoder's modules cost as much to call as what they compute, and in
bfloat16 on a CPU every product packs its weights again, copies its bias and leaves the activation
to a pass of its own. The same layers, called from here, multiply once where modules read the same
input, with weights that are packed once and the activation within the product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional
from transformers.models.whisper.modeling_whisper import (
    WhisperDecoder,
    WhisperEncoder,
    WhisperEncoderLayer,
)

from speechmeta.decoding import products
from speechmeta.decoding.products import Product

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
        self._heads, self._scale = first.num_heads, first.scaling
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
                (layer.fc2,),
            )
            self._products.append(
                [
                    Product([layer.fc1], copied, gelu=True),
                    *(Product(modules, copied) for modules in groups),
                ]
            )

    @staticmethod
    def fits(decoder: PreTrainedModel) -> bool:
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
            grow, joined, out, query, cross_out, shrink = self._products[number]
            parts = joined(_norm(layer.self_attn_layer_norm, hidden))
            own, keys, values = (_split(part, self._heads) for part in parts.chunk(3, -1))
            keys, values = cache.text.update(keys, values, number)
            hidden = hidden + out(_attend(own, keys, values, mask, self._scale))
            cross = query(_norm(layer.encoder_attn_layer_norm, hidden))
            if number in queries:
                queries[number].append(cross)
            attended = _attend(
                _split(cross, self._heads),
                cache.keys(number),
                cache.values(number),
                cache.seen,
                self._scale,
            )
            hidden = hidden + cross_out(attended)
            hidden = hidden + shrink(grow(_norm(layer.final_layer_norm, hidden)))
        return _norm(self._decoder.layer_norm, hidden)


class EncoderLayer:
    """One layer of a transformers `WhisperEncoder` for inference.

    Args:
        layer: the module; joined and packed copies of its weights are made once.
    """

    def __init__(self, layer: WhisperEncoderLayer) -> None:
        own = layer.self_attn
        self._layer = layer
        self._heads, self._scale = own.num_heads, own.scaling
        self._joined = Product([own.q_proj, own.k_proj, own.v_proj], True)
        self._out = Product([own.out_proj], True)
        self._grow = Product([layer.fc1], True, gelu=True)
        self._shrink = Product([layer.fc2], True)

    def __call__(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The next hidden states (rows, positions, width).

        Args:
            hidden: of the layer before.
            mask: additive, as the module takes it.
        """
        layer = self._layer
        parts = self._joined(_norm(layer.self_attn_layer_norm, hidden))
        queries, keys, values = (_split(part, self._heads) for part in parts.chunk(3, -1))
        hidden = hidden + self._out(_attend(queries, keys, values, mask, self._scale))
        return hidden + self._shrink(self._grow(_norm(layer.final_layer_norm, hidden)))


def encoder_layers(encoder: PreTrainedModel) -> Sequence[EncoderLayer] | None:
    """The layers of an encoder without their modules; None where they do not fit, or are so
    large that the products are all that counts."""
    size = sum(weight.nbytes for weight in encoder.layers.parameters())
    fits = (
        type(encoder) is WhisperEncoder
        and encoder.config._attn_implementation == "sdpa"
        and encoder.config.activation_function == "gelu"
        # In float16 the modules keep what would overflow within bounds.
        and encoder.conv1.weight.dtype != torch.float16
        and not encoder.training
        and size <= products.MOST_COPIED
    )
    return [EncoderLayer(layer) for layer in encoder.layers] if fits else None


def _split(joined: torch.Tensor, heads: int) -> torch.Tensor:
    """(rows, tokens, width) to (rows, heads, tokens, head width)."""
    rows, tokens, width = joined.shape
    return joined.view(rows, tokens, heads, width // heads).transpose(1, 2)


def _attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    attended = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, scale=scale
    )
    return attended.transpose(1, 2).flatten(2)


def _norm(norm: nn.LayerNorm, hidden: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(hidden, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
