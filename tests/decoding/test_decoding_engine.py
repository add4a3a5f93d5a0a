"""The engine against the reference; batches, failures, memory, loops, budgets."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_clips, tiny_speechllm

from speechmeta.decoding import engine as engine_module
from speechmeta.decoding.engine import Engine
from speechmeta.decoding.grammar import Option
from speechmeta.decoding.inputs import Prompt
from speechmeta.decoding.labels import choose
from speechmeta.decoding.layout import COMPACT_LAYOUT, PUBLISHED_LAYOUT, TextLayout
from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.record import DecodedRecord
from speechmeta.decoding.reference import ReferenceEngine
from speechmeta.decoding.session import Session
from speechmeta.errors import AudioError, DecodingError, SpeechMetaError, UsageError
from speechmeta.schema import FIELDS, LABEL_FIELDS

pytestmark = pytest.mark.slow

CASES = pytest.mark.parametrize(
    ("vocab", "layout"),
    [
        ("llama", COMPACT_LAYOUT),
        ("llama", PUBLISHED_LAYOUT),
        ("bytes", COMPACT_LAYOUT),
        ("bytes", PUBLISHED_LAYOUT),
    ],
    ids=["llama-compact", "llama-published", "bytes-compact", "bytes-published"],
)
Result = DecodedRecord | SpeechMetaError


def records(results: Sequence[Result]) -> list[DecodedRecord]:
    for item in results:
        if isinstance(item, SpeechMetaError):
            raise item
    return [item for item in results if isinstance(item, DecodedRecord)]


def assert_same(ours: Sequence[Result], theirs: Sequence[Result], passes: bool = False) -> None:
    for one, other in zip(records(ours), records(theirs), strict=True):
        assert one.values == other.values
        assert (one.text, one.flags) == (other.text, other.flags)
        assert (one.forced_tokens, one.sampled_tokens) == (
            other.forced_tokens,
            other.sampled_tokens,
        )
        assert one.probabilities.keys() == other.probabilities.keys()
        for field, table in one.probabilities.items():
            assert table == pytest.approx(other.probabilities[field], abs=1e-4)
        if passes:
            assert one.forward_passes == other.forward_passes


@functools.cache
def referred(vocab: str, layout: TextLayout, seed: int) -> tuple[Any, ...]:
    """A model, its processor, clips, the fields asked for, and the reference's records.

    The reference takes most of the time and knows no trees.
    """
    model, processor = tiny_speechllm(seed, vocab, layout, spread=(0.3, 0.1, 0.6)[seed])
    clips = tiny_clips(5, seed)
    fields = [None, ("Transcript", "Age", "Emotion"), ("Gender", "Accent")][seed]
    return model, processor, clips, fields, ReferenceEngine(model, processor).decode(clips, fields)


@CASES
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("tree_nodes", [0, 64, 400])
def test_same_as_the_reference(vocab: str, layout: TextLayout, seed: int, tree_nodes: int) -> None:
    model, processor, clips, fields, plain = referred(vocab, layout, seed)
    options = DecodeOptions(tree_nodes=tree_nodes)
    assert_same(Engine(model, processor, options).decode(clips, fields), plain)


@CASES
@pytest.mark.parametrize("batch_size", [2, 5])
def test_batch_equals_single(vocab: str, layout: TextLayout, batch_size: int) -> None:
    model, processor = tiny_speechllm(7, vocab, layout)
    clips = tiny_clips(7, seed=7, seconds=(0.2, 3.0))
    single = Engine(model, processor, DecodeOptions(batch_size=1)).decode(clips)
    batch = Engine(model, processor, DecodeOptions(batch_size=batch_size)).decode(clips)
    assert_same(batch, single, passes=True)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_encoder_batches(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding is masked where the front-end allows it, and avoided where it does not."""
    model, processor = tiny_speechllm(1, norm=norm)
    clips = tiny_clips(4, seed=3, seconds=(1.0, 1.2)) + tiny_clips(2, seed=4, seconds=(1.0, 1.0))
    engine = Engine(model, processor, DecodeOptions(bucket_ratio=0.1))
    sizes: list[tuple[int, ...]] = []
    encode = model.get_audio_features

    def spy(values: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        sizes.append(tuple(values.shape))
        return encode(values, mask)

    monkeypatch.setattr(model, "get_audio_features", spy)
    prompts = engine.prompts.build(clips, FIELDS, None)
    assert len(sizes) == (1 if norm == "layer" else 5)
    for clip, prompt in zip(clips, prompts, strict=True):
        [alone] = engine.prompts.build([clip], FIELDS, None)
        assert isinstance(prompt, Prompt)
        assert isinstance(alone, Prompt)
        torch.testing.assert_close(prompt.embeds, alone.embeds, atol=2e-4, rtol=1e-4)


def test_long_and_short_clips_are_not_padded_to_each_other() -> None:
    model, processor = tiny_speechllm(1)
    engine = Engine(model, processor, DecodeOptions(bucket_ratio=0.8))
    rows = [(i, torch.zeros(n)) for i, n in enumerate([1000, 950, 300, 290, 810])]
    buckets = [[len(values) for _, values in bucket] for bucket in engine.prompts._buckets(rows)]
    assert buckets == [[1000, 950, 810], [300, 290]]


@CASES
def test_passes_stay_within_the_bar(vocab: str, layout: TextLayout) -> None:
    for seed in range(4):
        model, processor = tiny_speechllm(seed, vocab, layout)
        for tree_nodes in (0, 64):
            engine = Engine(model, processor, DecodeOptions(tree_nodes=tree_nodes))
            for record in records(engine.decode(tiny_clips(4, seed))):
                body = record.transcript_tokens - (not record.flags)
                assert record.forward_passes <= body + len(LABEL_FIELDS) + 2


def test_several_fields_in_one_pass() -> None:
    """Trees over several fields save passes and change nothing."""
    model, processor = tiny_speechllm(2, layout=COMPACT_LAYOUT)
    clips = tiny_clips(3)
    fields = ("SpeechActivity", *LABEL_FIELDS)
    apart = records(Engine(model, processor, DecodeOptions(tree_nodes=0)).decode(clips, fields))
    joint = records(Engine(model, processor, DecodeOptions(tree_nodes=5000)).decode(clips, fields))
    assert_same(joint, apart)
    assert {record.forward_passes for record in apart} == {5}
    assert {record.forward_passes for record in joint} == {1}


def test_rows_at_different_places() -> None:
    """Rows of one batch end their transcripts at different steps and all get their labels."""
    model, processor = tiny_speechllm(0, layout=PUBLISHED_LAYOUT)
    result = records(Engine(model, processor).decode(tiny_clips(8, seed=5)))
    assert len({record.transcript_tokens for record in result}) > 1
    assert all(set(record.probabilities) == {"SpeechActivity", *LABEL_FIELDS} for record in result)


def test_a_bad_row_loses_no_other() -> None:
    model, processor = tiny_speechllm(0)
    good = tiny_clips(2)
    broken = [
        np.full(16_000, np.nan, dtype=np.float32),
        np.zeros(0, dtype=np.float32),
        np.zeros((2, 16_000), dtype=np.float32),
    ]
    result = Engine(model, processor).decode([good[0], *broken, good[1]])
    assert [isinstance(item, AudioError) for item in result] == [False, True, True, True, False]
    assert_same([result[0], result[4]], Engine(model, processor).decode(good))


def test_a_row_that_breaks_in_the_encoder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_speechllm(0)
    encode = model.get_audio_features

    def fragile(values: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        if bool((values.abs() > 30).any()):
            raise ValueError("cannot encode this")
        return encode(values, mask)

    monkeypatch.setattr(model, "get_audio_features", fragile)
    clips = tiny_clips(4, seconds=(1.0, 1.1))
    clips[2][500] = 1000.0
    result = Engine(model, processor).decode(clips)
    assert [type(item) for item in result] == [
        DecodedRecord,
        DecodedRecord,
        DecodingError,
        DecodedRecord,
    ]


def test_audio_beyond_the_context_is_an_error() -> None:
    model, processor = tiny_speechllm(0)
    result = Engine(model, processor).decode([*tiny_clips(2), *tiny_clips(1, seconds=(100, 100))])
    assert [isinstance(item, DecodedRecord) for item in result] == [True, True, False]
    assert "context" in str(result[2])


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no"), RuntimeError("can't allocate memory"), MemoryError()]
)
def test_out_of_memory_halves_the_batch(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_speechllm(0)
    clips = tiny_clips(6)
    whole = Engine(model, processor).decode(clips)
    sizes: list[int] = []

    class SmallSession(Session[Any]):
        def __init__(self, model: Any, prompts: Sequence[Prompt], *args: Any) -> None:
            sizes.append(len(prompts))
            if len(prompts) > 2:
                raise error
            super().__init__(model, prompts, *args)

    monkeypatch.setattr(engine_module, "Session", SmallSession)
    assert_same(Engine(model, processor).decode(clips), whole)
    assert sizes == [6, 3, 1, 2, 3, 1, 2]


def test_memory_that_never_suffices(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_speechllm(0)

    def full(*args: Any) -> Any:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(engine_module, "Session", full)
    result = Engine(model, processor).decode(tiny_clips(3))
    assert all(isinstance(item, DecodingError) and "memory" in str(item) for item in result)


def test_numbers_that_are_not_finite() -> None:
    model, processor = tiny_speechllm(0)
    with torch.no_grad():
        model.language_model.lm_head.weight.fill_(torch.nan)
    for kind in (Engine, ReferenceEngine):
        for fields in (("Gender",), ("Transcript",)):
            [result] = kind(model, processor).decode(tiny_clips(1), fields)
            assert isinstance(result, DecodingError)
            assert "finite" in str(result)


class Scripted(torch.nn.Module):
    """A head that always prefers some tokens in turn, whatever the decoder says."""

    def __init__(self, size: int, *prefer: int) -> None:
        super().__init__()
        self.size, self.prefer = size, prefer

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*hidden.shape[:-1], self.size)
        for rank, token in enumerate(self.prefer):
            logits[..., token] = 50.0 - rank
        return logits


@pytest.mark.parametrize("engine", [Engine, ReferenceEngine])
@pytest.mark.parametrize("layout", [COMPACT_LAYOUT, PUBLISHED_LAYOUT])
def test_a_loop_is_cut_and_flagged(engine: type[Any], layout: TextLayout) -> None:
    model, processor = tiny_speechllm(0, layout=layout)
    [token] = processor.tokenizer.convert_tokens_to_ids(["▁no"])
    head = Scripted(len(processor.tokenizer), token)
    model.language_model.lm_head = head
    options = DecodeOptions(min_budget=60)
    [record] = records(engine(model, processor, options).decode(tiny_clips(1)))
    assert record.values["Transcript"] == "no"
    assert record.flags == ("transcript_loop",)
    assert record.transcript_tokens == options.loop_min_tokens
    grammar = engine(model, processor).grammars.get(FIELDS)
    assert grammar.accepts(grammar.table.encode_start(record.text))


@pytest.mark.parametrize("engine", [Engine, ReferenceEngine])
def test_the_budget_closes_the_transcript(engine: type[Any]) -> None:
    model, processor = tiny_speechllm(1, spread=0.6)
    options = DecodeOptions(max_transcript_tokens=3)
    for record in records(engine(model, processor, options).decode(tiny_clips(4))):
        assert record.transcript_tokens <= 4
        assert record.flags == (("transcript_truncated",) if record.transcript_tokens == 3 else ())
        record.to_meta(model.config.label_sets)


def test_characters_are_whole_at_a_forced_close() -> None:
    """A model that loves the first byte of a four-byte character must not begin it too late."""
    model, processor = tiny_speechllm(0)
    [first] = processor.tokenizer.convert_tokens_to_ids(["<0xF0>"])
    space = processor.tokenizer.convert_tokens_to_ids("▁")
    model.language_model.lm_head = Scripted(len(processor.tokenizer), first, space)
    for budget in range(1, 12):
        options = DecodeOptions(max_transcript_tokens=budget, loop_min_tokens=99)
        [record] = records(Engine(model, processor, options).decode(tiny_clips(1)))
        assert record.transcript_tokens <= budget
        assert "\ufffd" not in record.text
        record.to_meta(model.config.label_sets)


def test_results_without_speech() -> None:
    model, processor = tiny_speechllm(0)
    options = Engine(model, processor).grammars.get(FIELDS).options(0, None)
    [no] = [option for option in options if option.label == "False"]
    [yes] = [option for option in options if option.label == "True"]
    only_no = set(no.tokens) - set(yes.tokens)
    model.language_model.lm_head = Scripted(len(processor.tokenizer), *only_no)
    for kind in (Engine, ReferenceEngine):
        [record] = records(kind(model, processor).decode(tiny_clips(1)))
        meta = record.to_meta(model.config.label_sets)
        assert record.text == COMPACT_LAYOUT.render({"SpeechActivity": "False"})
        assert meta.model_dump() == {
            "SpeechActivity": False,
            "Transcript": "",
            **dict.fromkeys(LABEL_FIELDS),
        }
        assert meta.confidence["SpeechActivity"] > 0.5


def test_labels_below_a_threshold_are_left_out() -> None:
    model, processor = tiny_speechllm(0)
    for record in records(Engine(model, processor).decode(tiny_clips(2), ("Age",))):
        best = max(record.probabilities["Age"].values())
        kept = record.to_meta(model.config.label_sets, min_confidence=best - 0.001)
        assert kept.age == record.values["Age"]
        dropped = record.to_meta(model.config.label_sets, min_confidence=best + 0.001)
        assert dropped.age is None
        assert dropped.confidence["Age"] == best


def test_variants_of_a_label_add_up() -> None:
    options = [
        Option("Female", "female", (1, 2), 1),
        Option("Female", "Female", (3, 2), 1),
        Option("Male", "male", (4, 2), 1),
    ]
    scores = [float(np.log(value)) for value in (0.2, 0.25, 0.3)]
    table, chosen = choose(options, scores)
    assert table == pytest.approx({"Female": 0.6, "Male": 0.4})
    assert chosen.form == "Female"
    with pytest.raises(DecodingError):
        choose(options, [0.0, float("nan"), 0.0])


def test_label_probabilities_by_hand() -> None:
    """Against plain forward passes over the whole text of every option."""
    model, processor = tiny_speechllm(4, layout=COMPACT_LAYOUT)
    clip = tiny_clips(1)[0]
    engine = Engine(model, processor, DecodeOptions(tree_nodes=400))
    [record] = records(engine.decode([clip], ("Gender", "Accent")))
    [prompt] = engine.prompts.build([clip], ("Gender", "Accent"), None)
    assert isinstance(prompt, Prompt)
    embed = model.get_input_embeddings()
    scores = {}
    gender = str(record.values["Gender"])
    for accent in model.config.label_sets["Accent"]:
        text = COMPACT_LAYOUT.render({"Gender": gender, "Accent": accent})
        ids = torch.tensor(engine.grammars.table.encode_start(text))
        with torch.no_grad():
            inputs = torch.cat([prompt.embeds, embed(ids)])[None]
            logits = model.language_model(inputs_embeds=inputs).logits[0, len(prompt.embeds) - 1 :]
        logs = logits[:-1].log_softmax(-1)[torch.arange(len(ids)), ids]
        # Tokens after the value's end are the same for all accents and forced.
        scores[accent] = float(logs[: _end(engine, list(ids), f'"{accent}"')].sum())
    norm = np.logaddexp.reduce(list(scores.values()))
    by_hand = {accent: float(np.exp(score - norm)) for accent, score in scores.items()}
    assert record.probabilities["Accent"] == pytest.approx(by_hand, abs=1e-4)


def _end(engine: Engine, ids: list[int], value: str) -> int:
    """How many tokens reach the end of the last place where a value is written."""
    table = engine.grammars.table
    text = table.text_of(ids)
    end = text.rindex(value.encode()) + len(value.encode())
    return next(n for n in range(len(ids) + 1) if len(table.text_of(ids[:n])) >= end)


def test_bad_options() -> None:
    bad: Any
    for bad in ({"batch_size": 0}, {"loop_repeats": 1}, {"beams": 0}):
        with pytest.raises(UsageError):
            DecodeOptions(**bad)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations(attention: str) -> None:
    model, processor = tiny_speechllm(0)
    clips = tiny_clips(3)
    expected = Engine(model, processor).decode(clips)
    model.language_model.set_attn_implementation(attention)
    assert_same(Engine(model, processor).decode(clips), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_valid_records(dtype: torch.dtype) -> None:
    model, processor = tiny_speechllm(0)
    model = getattr(model, "to")(dtype)  # noqa: B009 - the stubs of `to` take no dtype
    for record in records(Engine(model, processor).decode(tiny_clips(4))):
        record.to_meta(model.config.label_sets)
