"""The layers of a Llama decoder with nothing but their arithmetic.

At one token a pass, a small decoder spends most of its time beside its arithmetic: six operations a
norm, fourteen a rotation, seven products a layer of which each unpacks its weight, keyword
arguments through four calls. The same layers, called from here, take the fused norm, rotate queries
and keys together, and multiply once where modules read the same input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import LlamaModel

from speechmeta.decoding import products
from speechmeta.decoding.cache import SlotCache
from speechmeta.decoding.products import Product


class LlamaLayers:
    """Runs the layers of a transformers `LlamaModel` for inference.

    The joined copies of a small model's weights are made once: later changes of the model's
    weights are not seen.

    Args:
        decoder: the model; `fits` tells whether it is one.
    """

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        config = decoder.config
        self._eps = config.rms_norm_eps
        self._width = decoder.layers[0].self_attn.head_dim
        self._heads = config.num_attention_heads
        self._keys = config.num_key_value_heads
        size = sum(weight.nbytes for weight in decoder.layers.parameters())
        copied = size <= products.MOST_COPIED
        self._products = []
        for layer in decoder.layers:
            own, mlp = layer.self_attn, layer.mlp
            groups = (
                (own.q_proj, own.k_proj, own.v_proj),
                (own.o_proj,),
                (mlp.gate_proj, mlp.up_proj),
                (mlp.down_proj,),
            )
            self._products.append([Product(modules, copied) for modules in groups])

    @staticmethod
    def fits(decoder: Any) -> bool:
        """Whether a decoder is a plain Llama with fused attention, whose arithmetic this is."""
        return (
            type(decoder) is LlamaModel
            and decoder.config._attn_implementation == "sdpa"
            and decoder.config.hidden_act == "silu"
            and not decoder.training
        )

    def __call__(
        self, embeds: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: SlotCache
    ) -> torch.Tensor:
        """The last hidden states, normalised.

        Args:
            embeds: (rows, tokens, width).
            mask: (rows, 1, tokens, slots) bool, what each token sees.
            positions: (rows, tokens).
            cache: takes the new keys and values.
        """
        hidden = embeds
        cos, sin = self._decoder.rotary_emb(embeds, positions)
        # The half that turns backwards has its sign here, once for all layers.
        half = self._width // 2
        turn = cos[:, :, None], torch.cat((-sin[..., :half], sin[..., half:]), -1)[:, :, None]
        for number, layer in enumerate(self._decoder.layers):
            _, _, gate_up, down = self._products[number]
            normed = self._norm(layer.input_layernorm, hidden)
            hidden = hidden + self._attend(number, layer, normed, mask, turn, cache)
            gate, up = gate_up(self._norm(layer.post_attention_layernorm, hidden)).chunk(2, -1)
            hidden = hidden + down(functional.silu(gate) * up)
        return self._norm(self._decoder.norm, hidden)

    def _norm(self, norm: Any, hidden: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(hidden, hidden.shape[-1:], norm.weight, self._eps)

    def _attend(
        self,
        number: int,
        layer: Any,
        normed: torch.Tensor,
        mask: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        cache: SlotCache,
    ) -> torch.Tensor:
        heads, (joined, out, _, _) = self._heads, self._products[number]
        parts = joined(normed).view(*normed.shape[:2], -1, self._width)
        both, values = parts[:, :, : heads + self._keys], parts[:, :, heads + self._keys :]
        cos, sin = turn
        both = torch.addcmul(both * cos, both.roll(self._width // 2, -1), sin).transpose(1, 2)
        keys, values = cache.update(both[:, heads:], values.transpose(1, 2), number)
        attended = functional.scaled_dot_product_attention(
            both[:, :heads],
            keys,
            values,
            attn_mask=mask,
            scale=layer.self_attn.scaling,
            enable_gqa=self._keys != heads,
        )
        return out(attended.transpose(1, 2).flatten(2))
