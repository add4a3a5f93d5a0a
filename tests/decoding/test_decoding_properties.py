"""Whatever the logits: the output parses, validates, and ends within its budget."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_clips, tiny_speechllm

from speechmeta.decoding.engine import Engine
from speechmeta.decoding.layout import COMPACT_LAYOUT, PUBLISHED_LAYOUT
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import DecodedRecord
from speechmeta.decoding.reference import ReferenceEngine
from speechmeta.schema import FIELDS, LABEL_FIELDS, SpeakerMeta

pytestmark = pytest.mark.slow

LAYOUTS = {"compact": COMPACT_LAYOUT, "published": PUBLISHED_LAYOUT}
FAVOURITES: dict[str, Callable[[bytes], bool]] = {
    "quotes": lambda piece: b'"' in piece,
    "backslashes": lambda piece: b"\\" in piece,
    "control characters": lambda piece: min(piece) < 32 or 127 in piece,
    "parts of characters": lambda piece: max(piece) > 127,
    "spaces": lambda piece: piece.strip() == b"",
    "closings": lambda piece: b"}" in piece or b"," in piece,
    "nothing": lambda piece: False,
}


class AnyLogits(torch.nn.Module):
    """A language model head that says anything, loudly."""

    def __init__(self, table: Any, size: int, seed: int, favourites: set[str]) -> None:
        super().__init__()
        self.random = torch.Generator().manual_seed(seed)
        self.bias = torch.zeros(size)
        for token, piece in enumerate(table.bytes):
            if piece and any(FAVOURITES[name](piece) for name in favourites):
                self.bias[token] = 20.0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        shape = (*hidden.shape[:-1], len(self.bias))
        return 8 * torch.randn(shape, generator=self.random) + self.bias


@functools.cache
def small(vocab: str, layout: str) -> tuple[Any, Any]:
    return tiny_speechllm(0, vocab, LAYOUTS[layout])


def check(record: Any, fields: tuple[str, ...], budget: int, label_sets: Any) -> None:
    assert isinstance(record, DecodedRecord), record
    meta = record.to_meta(label_sets)
    document = json.loads(meta.model_dump_json())
    assert tuple(document) == tuple(field for field in FIELDS if field in fields)
    assert SpeakerMeta.model_validate(document) == SpeakerMeta.model_validate(
        {field: meta.value(field) for field in meta.fields}
    )
    body = record.transcript_tokens - (not record.flags)
    assert body <= budget
    labels = sum(field in LABEL_FIELDS for field in fields)
    assert record.forward_passes <= record.transcript_tokens + labels + 2
    for field, table in record.probabilities.items():
        assert sum(table.values()) == pytest.approx(1.0), field


@pytest.mark.parametrize("vocab", ["llama", "bytes"])
@pytest.mark.parametrize("layout", ["compact", "published"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**31),
    favourites=st.sets(st.sampled_from(sorted(FAVOURITES)), max_size=3),
    budget=st.integers(1, 24),
    fields=st.sets(st.sampled_from(FIELDS), min_size=1),
    rows=st.integers(1, 4),
    tree_nodes=st.sampled_from([0, 64, 1000]),
)
def test_any_logits(
    vocab: str,
    layout: str,
    seed: int,
    favourites: set[str],
    budget: int,
    fields: set[str],
    rows: int,
    tree_nodes: int,
) -> None:
    model, processor = small(vocab, layout)
    options = DecodeOptions(max_transcript_tokens=budget, min_budget=24, tree_nodes=tree_nodes)
    engine = Engine(model, processor, options)
    asked = tuple(field for field in FIELDS if field in fields)
    grammar = engine.grammars.get(asked)
    original = model.language_model.lm_head
    model.language_model.lm_head = AnyLogits(
        grammar.table, len(processor.tokenizer), seed, favourites
    )
    try:
        results = engine.decode(tiny_clips(rows, seed % 1000), asked)
    finally:
        model.language_model.lm_head = original
    assert len(results) == rows
    for record in results:
        check(record, asked, budget, model.config.label_sets)
        assert isinstance(record, DecodedRecord)
        assert grammar.accepts(grammar.table.encode_start(record.text))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**31), favourites=st.sets(st.sampled_from(sorted(FAVOURITES))))
def test_any_logits_plain(seed: int, favourites: set[str]) -> None:
    model, processor = small("llama", "published")
    engine = ReferenceEngine(model, processor, DecodeOptions(max_transcript_tokens=9))
    original = model.language_model.lm_head
    model.language_model.lm_head = AnyLogits(
        engine.grammars.table, len(processor.tokenizer), seed, favourites
    )
    try:
        [record] = engine.decode(tiny_clips(1))
    finally:
        model.language_model.lm_head = original
    assert isinstance(record, DecodedRecord)
    record.to_meta(model.config.label_sets)
    assert record.transcript_tokens <= 10
