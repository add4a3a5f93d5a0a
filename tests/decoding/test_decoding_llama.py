"""The lean layers against transformers' own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_speechllm
from transformers import LlamaConfig, LlamaModel, MistralConfig, MistralModel

from speechmeta.decoding import products
from speechmeta.decoding.cache import SlotCache
from speechmeta.decoding.engine import Engine
from speechmeta.decoding.llama import LlamaLayers
from speechmeta.decoding.products import Product
from speechmeta.models.speechllm.quantization import quantize_int8
from speechmeta.schema import FIELDS

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def decoder(**changes: Any) -> LlamaModel:
    torch.manual_seed(0)
    model = LlamaModel(LlamaConfig(**{**SIZES, **changes})).eval()
    for name, weight in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 2, "head_dim": 16},
        {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-3},
        {"rope_parameters": LLAMA3},
    ],
)
@pytest.mark.parametrize("copied", [True, False])
@torch.inference_mode()
def test_same_as_transformers(
    changes: dict[str, Any], copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = decoder(**changes)
    assert LlamaLayers.fits(model)
    monkeypatch.setattr(products, "MOST_COPIED", 2**20 if copied else 0)
    layers = LlamaLayers(model)
    rng = torch.Generator().manual_seed(1)
    own, theirs = SlotCache(3, 8), SlotCache(3, 8)
    used = 0
    # A prompt, single tokens and a tree, each token seeing some of what was before.
    for size in (20, 1, 1, 7):
        embeds = torch.randn(2, size, 32, generator=rng)
        mask = torch.rand(2, 1, size, used + size, generator=rng) < 0.6
        mask |= torch.eye(size, used + size, dtype=torch.bool).roll(used, 1)
        positions = torch.randint(0, 40, (2, size), generator=rng)
        found = layers(embeds, mask, positions, own)
        expected = model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            cache=theirs,
            use_cache=True,
        ).last_hidden_state
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        used += size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_joined_products(dtype: torch.dtype, bias: bool) -> None:
    linears = [torch.nn.Linear(32, size, bias=bias, dtype=dtype) for size in (16, 48)]
    inputs = torch.randn(2, 5, 32, dtype=dtype)
    expected = torch.cat([linear(inputs) for linear in linears], -1)
    near = 1e-5 if dtype == torch.float32 else 8e-3
    for copied in (True, False):
        torch.testing.assert_close(Product(linears, copied)(inputs), expected, atol=near, rtol=near)


def test_modules_that_are_more_than_their_weights_are_called() -> None:
    class Adapted(torch.nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return super().forward(inputs) + 1

    pair = [Adapted(8, 4), torch.nn.Linear(8, 4)]
    inputs = torch.randn(3, 8)
    expected = torch.cat([module(inputs) for module in pair], -1)
    torch.testing.assert_close(Product(pair, True)(inputs), expected)


def test_what_it_does_not_fit() -> None:
    model = decoder(hidden_act="gelu")
    assert not LlamaLayers.fits(model)
    model = decoder()
    model.config._attn_implementation = "eager"
    assert not LlamaLayers.fits(model)
    assert not LlamaLayers.fits(decoder().train())
    assert not LlamaLayers.fits(MistralModel(MistralConfig(**SIZES)).eval())


@pytest.mark.parametrize("int8", [False, True])
def test_records_are_the_same(int8: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_speechllm()
    if int8:
        quantize_int8(model)
    rng = np.random.default_rng(0)
    waves = [rng.standard_normal(size).astype(np.float32) * 0.1 for size in (9_000, 12_000)]
    lean = Engine(model, processor).decode(waves, FIELDS)
    monkeypatch.setattr(LlamaLayers, "fits", staticmethod(lambda _: False))
    plain = Engine(model, processor).decode(waves, FIELDS)
    for one, other in zip(lean, plain, strict=True):
        assert not isinstance(one, Exception)
        assert not isinstance(other, Exception)
        assert one.values == other.values
        for field, row in one.probabilities.items():
            assert row == pytest.approx(other.probabilities[field], abs=1e-4)
