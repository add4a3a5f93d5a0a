"""The CTC search: the beam against brute force, the joint choice against the plain engine."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from test_decoding_engine import assert_same, records
from tiny import tiny_clips, tiny_speechllm, tiny_tokenizer

from speechmeta.decoding.ctc_search import candidates, prefix_beam_search
from speechmeta.decoding.engine import Engine
from speechmeta.decoding.grammar import GrammarCache
from speechmeta.decoding.layout import COMPACT_LAYOUT, PUBLISHED_LAYOUT, TextLayout
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.reference import ReferenceEngine
from speechmeta.decoding.vocabulary import TokenTable
from speechmeta.errors import DecodingError, ModelError
from speechmeta.schema import DEFAULT_LABEL_SETS, FIELDS


def random_posteriors(frames: int, size: int, seed: int, scale: float = 2.0) -> np.ndarray:
    logits = scale * np.random.default_rng(seed).standard_normal((frames, size))
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def brute_force(log_probs: np.ndarray, blank: int) -> dict[tuple[int, ...], float]:
    """The probability of every sequence, summed over all alignments."""
    frames, size = log_probs.shape
    totals: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(size), repeat=frames):
        score = math.exp(sum(log_probs[t, token] for t, token in enumerate(path)))
        sequence = tuple(token for token, _ in itertools.groupby(path) if token != blank)
        totals[sequence] = totals.get(sequence, 0.0) + score
    return totals


def rare(table: TokenTable) -> list[int]:
    """Tokens that a trained head gives no weight: special ones, bytes, fixed text."""
    return [
        token
        for token, piece in enumerate(table.bytes)
        if not piece or len(piece) == 1 or max(piece) > 127 or b'"' in piece
    ]


def talkative(vocab: str, layout: TextLayout) -> tuple[Any, Any]:
    """A tiny model whose CTC head hears many things, all of them text."""
    model, processor = tiny_speechllm(2, vocab, layout, ctc_head=True)
    head: Any = model.ctc_head
    with torch.no_grad():
        head.weight.mul_(3)
        head.bias[rare(TokenTable(processor.tokenizer))] = -100
        head.bias[processor.tokenizer.pad_token_id] = 2
    return model, processor


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("blank", [0, 2])
def test_a_wide_beam_is_exact(seed: int, blank: int) -> None:
    log_probs = random_posteriors(5, 4, seed, scale=0.8)
    exact = brute_force(log_probs, blank)
    found = prefix_beam_search(log_probs, blank, beam=5000, margin=math.inf)
    assert {tokens: math.exp(score) for tokens, score in found} == pytest.approx(
        {tokens: exact[tokens] for tokens, _ in found}
    )
    assert len(found) == len(exact)
    assert found[0][0] == max(exact, key=lambda tokens: exact[tokens])


def test_prefixes_far_behind_are_given_up() -> None:
    log_probs = random_posteriors(12, 6, 3)
    found = dict(prefix_beam_search(log_probs, 0, beam=5000, margin=math.inf))
    few = dict(prefix_beam_search(log_probs, 0, beam=5000, margin=3.0))
    assert 1 < len(few) < len(found)
    best = max(found, key=lambda tokens: found[tokens])
    assert max(few, key=lambda tokens: few[tokens]) == best
    assert few[best] == pytest.approx(found[best], abs=0.1)


def test_a_narrow_beam_and_forbidden_tokens() -> None:
    log_probs = random_posteriors(30, 20, 1)
    allowed = np.ones(20, dtype=bool)
    allowed[[3, 4]] = False
    found = prefix_beam_search(log_probs, 0, beam=4, allowed=allowed)
    assert len(found) <= 5
    assert () in dict(found)
    assert not {3, 4} & {token for tokens, _ in found for token in tokens}
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_no_frames() -> None:
    assert prefix_beam_search(np.zeros((0, 5)), 0, 4) == [((), 0.0)]


@pytest.mark.parametrize("layout", [COMPACT_LAYOUT, PUBLISHED_LAYOUT])
@pytest.mark.parametrize("vocab", ["llama", "bytes", "pieces"])
def test_candidates_are_valid(vocab: str, layout: TextLayout) -> None:
    tokenizer = tiny_tokenizer(vocab)
    grammar = GrammarCache(tokenizer, layout, DEFAULT_LABEL_SETS).get(("Transcript",))
    log_probs = random_posteriors(25, len(tokenizer), 3, scale=4.0)
    blank = tokenizer.pad_token_id
    log_probs[:, [token for token in rare(grammar.table) if token != blank]] -= 100
    options, scores = candidates(grammar, log_probs, blank, DecodeOptions(), None, 500)
    assert len(options) == len(scores) == len({option.label for option in options}) > 1
    for option in options:
        text = layout.render({"Transcript": option.form})
        assert grammar.accepts(grammar.table.encode_start(text))
        assert grammar.parse_transcript(option.form.encode()) == option.label


@pytest.mark.parametrize("layout", [COMPACT_LAYOUT, PUBLISHED_LAYOUT])
@pytest.mark.parametrize("vocab", ["llama", "bytes", "pieces"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_same_as_the_reference(vocab: str, layout: TextLayout, weight: float) -> None:
    model, processor = talkative(vocab, layout)
    options = DecodeOptions(transcript_search="ctc", ctc_weight=weight, length_bonus=8.0)
    clips = tiny_clips(4, seed=2)
    fast = Engine(model, processor, options).decode(clips, FIELDS[1:])
    assert_same(fast, ReferenceEngine(model, processor, options).decode(clips, FIELDS[1:]))
    single = DecodeOptions(
        transcript_search="ctc", ctc_weight=weight, length_bonus=8.0, batch_size=1
    )
    assert_same(fast, Engine(model, processor, single).decode(clips, FIELDS[1:]), passes=True)
    assert any(record.values["Transcript"] for record in records(fast))
    for record in records(fast):
        assert record.forward_passes <= 6
        record.to_meta(model.config.label_sets)


def test_the_decoder_decides_between_what_was_heard() -> None:
    """With all the weight on it, the decoder takes its own favourite of the candidates."""
    model, processor = talkative("llama", COMPACT_LAYOUT)
    clips = tiny_clips(3)
    by_weight = [
        records(
            Engine(
                model, processor, DecodeOptions(transcript_search="ctc", ctc_weight=weight)
            ).decode(clips)
        )
        for weight in (0.0, 1.0)
    ]
    transcripts = [[record.values["Transcript"] for record in part] for part in by_weight]
    assert transcripts[0] != transcripts[1]


def test_without_a_head_and_with_broken_ones() -> None:
    model, processor = tiny_speechllm(2)
    options = DecodeOptions(transcript_search="ctc")
    [result] = Engine(model, processor, options).decode(tiny_clips(1))
    assert isinstance(result, ModelError)
    assert "CTC" in str(result)
    model, processor = tiny_speechllm(2, ctc_head=True)
    head: Any = model.ctc_head
    with torch.no_grad():
        head.weight.fill_(torch.nan)
    [result] = Engine(model, processor, options).decode(tiny_clips(1))
    assert isinstance(result, DecodingError)
    assert len(FIELDS) == 6
