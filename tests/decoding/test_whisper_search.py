"""Beams, hotwords, and the decoder's layers without their modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput
from whisper_tiny import tiny_memory, tiny_whisper

from speechmeta.decoding.decoders import CrossAttentionDecoder
from speechmeta.decoding.inputs import Prompt
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.whisper import TranscriptDecoder, Transcription
from speechmeta.decoding.whisper_layers import encoder_layers
from speechmeta.errors import UsageError

pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {"min_budget": 12, "loop_repeats": 10, "loop_min_tokens": 99}


def mean(item: Any) -> float:
    assert isinstance(item, Transcription)
    return sum(item.token_logprobs) / len(item.token_logprobs)


@pytest.mark.parametrize("seed", range(4))
def test_beams_find_transcripts_at_least_as_sure(seed: int) -> None:
    model, tokenizer = tiny_whisper(seed)
    with torch.no_grad():
        model.proj_out.weight[model.config.eos_token_id] *= 2
    memory = tiny_memory(5, seed)
    greedy = TranscriptDecoder(model, tokenizer, DecodeOptions(**OPTIONS))
    one = greedy.decode(list(memory), [1.0] * 5, language="en")
    wide = TranscriptDecoder(model, tokenizer, DecodeOptions(**OPTIONS, beams=4))
    many = wide.decode(list(memory), [1.0] * 5, language="en")
    better = [mean(b) - mean(a) for a, b in zip(one, many, strict=True)]
    assert sum(better) > 0
    for number, item in enumerate(many):
        [alone] = wide.decode(list(memory[number : number + 1]), [1.0], language="en")
        assert isinstance(item, Transcription)
        assert isinstance(alone, Transcription)
        assert alone.token_ids == item.token_ids
        assert alone.token_logprobs == pytest.approx(item.token_logprobs, abs=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_scores_are_the_models_own(beams: int) -> None:
    model, tokenizer = tiny_whisper(1)
    decoder = TranscriptDecoder(model, tokenizer, DecodeOptions(**OPTIONS, beams=beams))
    memory = tiny_memory(3, 1)
    for number, item in enumerate(decoder.decode(list(memory), [1.0] * 3, language="de")):
        assert isinstance(item, Transcription)
        prompt = [decoder.tokens.start, *decoder.tokens.task("de")]
        logits = model(
            encoder_outputs=BaseModelOutput(memory[number : number + 1]),
            decoder_input_ids=torch.tensor([[*prompt, *item.token_ids]]),
        ).logits[0, len(prompt) - 1 :]
        given = [*item.token_ids, decoder.tokens.end]
        expected = [float(row.log_softmax(-1)[t]) for row, t in zip(logits, given, strict=True)]
        count = len(item.token_logprobs)
        assert count >= len(item.token_ids)
        assert item.token_logprobs == pytest.approx(expected[:count], abs=1e-4)


def test_hotwords_are_what_was_written_before() -> None:
    model, tokenizer = tiny_whisper(3)
    decoder = TranscriptDecoder(model, tokenizer, DecodeOptions(**OPTIONS))
    memory = tiny_memory(2, 3)
    results = decoder.decode(list(memory), [1.0] * 2, language="en", hotwords="für zwölf")
    before = tokenizer(" für zwölf", add_special_tokens=False)["input_ids"]
    prompt = [decoder.tokens.previous, *before, decoder.tokens.start, *decoder.tokens.task("en")]
    for number, item in enumerate(results):
        assert isinstance(item, Transcription)
        logits = model(
            encoder_outputs=BaseModelOutput(memory[number : number + 1]),
            decoder_input_ids=torch.tensor([[*prompt, *item.token_ids[:-1]]]),
        ).logits[0, len(prompt) - 1 :]
        scores = logits.log_softmax(-1)
        found = [float(row[t]) for row, t in zip(scores, item.token_ids, strict=True)]
        assert found == pytest.approx(item.token_logprobs[: len(found)], abs=1e-4)


def test_hotwords_leave_half_of_the_context_to_the_transcript() -> None:
    model, tokenizer = tiny_whisper(3)
    decoder = TranscriptDecoder(model, tokenizer, DecodeOptions(**OPTIONS))
    long = "yes i got it " * 40
    ids = tokenizer(" " + long.strip(), add_special_tokens=False)["input_ids"]
    prompt = decoder._prompt(long)
    assert len(prompt) == 96 // 2 + 1
    assert prompt[1:-1] == ids[-47:]
    for item in decoder.decode(list(tiny_memory(2)), [30.0] * 2, language="en", hotwords=long):
        assert isinstance(item, Transcription)
        assert len(item.token_ids) <= 48 - 4
    assert decoder._prompt("  ") == [decoder.tokens.start]


def test_a_vocabulary_without_a_place_for_hotwords_says_so() -> None:
    model, tokenizer = tiny_whisper()
    decoder = TranscriptDecoder(model, tokenizer)
    decoder.tokens = type(decoder.tokens)(**{**vars(decoder.tokens), "previous": None})
    with pytest.raises(UsageError, match="no hotwords"):
        decoder.decode(list(tiny_memory(1)), [1.0], hotwords="Acme")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_fast_layers_compute_what_the_modules_do(dtype: torch.dtype) -> None:
    model, _ = tiny_whisper(2)
    model = model.to(dtype)
    memory = tiny_memory(3, 2).to(dtype)
    prompts = [
        Prompt(torch.zeros(1, 32), 1.0, memory=memory[i, :n]) for i, n in enumerate((50, 9, 30))
    ]
    decoders = [CrossAttentionDecoder(model, fast=fast) for fast in (True, False)]
    caches = [decoder.start(prompts, 8) for decoder in decoders]
    rng = torch.Generator().manual_seed(1)
    used, heads = 0, [(0, 1), (1, 2), (1, 3)]
    near = 1e-4 if dtype == torch.float32 else 0.15
    # A prompt, single tokens and a tree, each token seeing some of what was before.
    for size in (6, 1, 1, 5):
        ids = torch.randint(0, 300, (3, size), generator=rng)
        mask = torch.rand(3, 1, size, used + size, generator=rng) < 0.6
        mask |= torch.eye(size, used + size, dtype=torch.bool).roll(used, 1)
        positions = torch.randint(0, 90, (3, size), generator=rng)
        given = (mask, positions)
        states = [
            decoder.head(decoder.forward(decoder.embed(ids), *given, cache).flatten(0, 1)).float()
            for decoder, cache in zip(decoders, caches, strict=True)
        ]
        assert states[0].shape == (3 * size, model.config.vocab_size)
        torch.testing.assert_close(states[0], states[1], atol=near * 10, rtol=near)
        used += size
    looks = [
        decoder.look(
            decoder.embed(ids),
            torch.ones(3, 1, 5, used + 5, dtype=torch.bool),
            positions,
            cache,
            heads,
        )[0].float()
        for decoder, cache in zip(decoders, caches, strict=True)
    ]
    assert looks[0].shape == (3, 3, 5, 50)
    torch.testing.assert_close(
        looks[0][:, :, :, :9], looks[1][:, :, :, :9], atol=near * 10, rtol=near
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_fast_encoder_layers_compute_what_the_modules_do(dtype: torch.dtype) -> None:
    model, _ = tiny_whisper(4)
    encoder = model.to(dtype).get_encoder()
    fast = encoder_layers(encoder)
    assert fast is not None
    hidden = other = tiny_memory(3, 4).to(dtype)
    mask = torch.zeros(3, 1, 1, 50, dtype=dtype)
    mask[1, ..., 20:] = torch.finfo(dtype).min
    near = 1e-4 if dtype == torch.float32 else 0.1
    for layer, module in zip(fast, encoder.layers, strict=True):
        hidden, other = layer(hidden, mask), module(other, mask)
        torch.testing.assert_close(hidden, other, atol=near * 4, rtol=near)
    assert encoder_layers(encoder.train()) is None
