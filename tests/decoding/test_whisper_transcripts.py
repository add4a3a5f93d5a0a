"""Transcripts of Whisper's decoder: equal to transformers' own, in batches, within the grammar."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from whisper_tiny import LANGUAGES, tiny_memory, tiny_whisper, whisper_tokenizer

from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.whisper import TranscriptDecoder, Transcription
from speechmeta.errors import DecodingError, ModelError, SpeechMetaError, UsageError

pytestmark = pytest.mark.slow

ROOMY = DecodeOptions(min_budget=24, loop_repeats=10, loop_min_tokens=99)
"""Long enough to see rows end at different steps, and no loop cut."""


def written(results: Sequence[Transcription | SpeechMetaError]) -> list[Transcription]:
    for item in results:
        if isinstance(item, SpeechMetaError):
            raise item
    return [item for item in results if isinstance(item, Transcription)]


def partial_characters(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Tokens that the grammar forbids in some state or everywhere; the others are always free."""
    decoder = TranscriptDecoder(*tiny_whisper())
    whole = set(decoder.states.moves[1])
    for moves in decoder.states.moves[1:]:
        if decoder.states.distance[decoder.states.moves.index(moves)] == 0:
            whole &= set(moves)
    fixed = {t for t in whole if decoder.states.distance[decoder.states.moves[1][t]] == 0}
    return [token for token in range(len(tokenizer)) if token not in fixed]


def often(model: WhisperForConditionalGeneration, factor: float) -> None:
    """Makes the end token's logits larger, of either sign, or all the same with 0."""
    with torch.no_grad():
        model.proj_out.weight[model.config.eos_token_id] *= factor


def generated(
    model: WhisperForConditionalGeneration, memory: torch.Tensor, count: int, **changes: Any
) -> list[list[int]]:
    """transformers' own greedy ids after the prompt, up to the end token."""
    config = model.generation_config
    language = {"language": "en", "task": "transcribe"} if config.is_multilingual else {}
    ids = model.generate(
        encoder_outputs=BaseModelOutput(memory),
        attention_mask=torch.ones(memory.shape[:2], dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
        **language,
        **changes,
    )
    end = config.eos_token_id
    return [[token for token in row if token != end] for row in ids.tolist()]


@pytest.mark.parametrize("multilingual", [True, False], ids=["multilingual", "english"])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.filterwarnings("ignore")
def test_token_ids_equal_those_of_transformers(multilingual: bool, seed: int) -> None:
    model, tokenizer = tiny_whisper(seed, multilingual)
    model.generation_config.suppress_tokens = [
        token for token in partial_characters(tokenizer) if token != model.config.eos_token_id
    ]
    model.generation_config.begin_suppress_tokens = [
        *tokenizer(" ")["input_ids"], model.config.eos_token_id,
    ]  # fmt: skip
    often(model, 1.5)
    memory = tiny_memory(6, seed)
    ours = TranscriptDecoder(model, tokenizer, ROOMY).decode(list(memory), [1.0] * 6, language="en")
    found = [item.token_ids for item in written(ours)]
    assert found == generated(model, memory, 24)
    assert any(found)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_batch_equals_its_rows_alone(attention: str) -> None:
    model, tokenizer = tiny_whisper(4, attention=attention)
    often(model, 2.5)
    decoder = TranscriptDecoder(model, tokenizer, ROOMY)
    memory, sizes = tiny_memory(7, 4), [50, 12, 33, 50, 8, 21, 40]
    rows = [states[:size] for states, size in zip(memory, sizes, strict=True)]
    together = written(decoder.decode(rows, [1.0] * 7))
    assert len({len(item.token_ids) for item in together}) > 1
    for number, states in enumerate(rows):
        [alone] = written(decoder.decode([states], [1.0]))
        same = together[number]
        assert (alone.token_ids, alone.language) == (same.token_ids, same.language)
        assert (alone.text, alone.flags, alone.passes) == (same.text, same.flags, same.passes)
        assert alone.token_logprobs == pytest.approx(same.token_logprobs, abs=1e-4)
        assert alone.no_speech_probability == pytest.approx(same.no_speech_probability, rel=1e-4)


@pytest.mark.parametrize("language", [None, "en"])
@pytest.mark.parametrize("seed", range(6))
def test_every_transcript_is_text_that_json_can_hold(language: str | None, seed: int) -> None:
    model, tokenizer = tiny_whisper(seed, spread=(0.05, 0.2, 0.6)[seed % 3])
    decoder = TranscriptDecoder(model, tokenizer, DecodeOptions(min_budget=3 + seed))
    for item in written(decoder.decode(list(tiny_memory(8, seed)), [0.1] * 8, language=language)):
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", item.text)
        assert json.loads(json.dumps(item.text)) == item.text
        assert tokenizer.decode(item.token_ids).strip() == item.text
        assert not set(item.token_ids) & decoder.tokens.control
        assert len(item.token_ids) <= 3 + seed
        # The prompt's pass gives the first token; detecting the language takes one more.
        assert item.passes <= len(item.token_ids) + (1 if language else 2)


def test_no_speech_costs_one_pass_and_writes_nothing() -> None:
    model, tokenizer = tiny_whisper(1)
    decoder = TranscriptDecoder(model, tokenizer, ROOMY)
    memory = tiny_memory(4, 1)
    free = written(decoder.decode(list(memory), [1.0] * 4, language="en"))
    asked = [
        1.5 if number % 2 else item.no_speech_probability * 0.9 for number, item in enumerate(free)
    ]
    gated = written(decoder.decode(list(memory), [1.0] * 4, language="en", no_speech_above=asked))
    for number, item in enumerate(gated):
        if number % 2:
            assert item.token_ids == free[number].token_ids
        else:
            assert (item.text, item.token_ids, item.passes) == ("", [], 1)
            assert item.confidence is None


def test_no_speech_probability_is_that_after_the_start_token() -> None:
    model, tokenizer = tiny_whisper(2)
    decoder = TranscriptDecoder(model, tokenizer)
    memory = tiny_memory(3, 2)
    logits = model(
        encoder_outputs=BaseModelOutput(memory),
        decoder_input_ids=torch.full((3, 1), model.config.decoder_start_token_id),
    ).logits[:, 0]
    expected = logits.softmax(-1)[:, decoder.tokens.no_speech].tolist()
    for language in (None, "de"):
        found = written(decoder.decode(list(memory), [1.0] * 3, language=language))
        assert [item.no_speech_probability for item in found] == pytest.approx(expected, rel=1e-4)
    known = [decoder.tokens.languages[code] for code in LANGUAGES]
    best = [LANGUAGES[place] for place in logits[:, known].argmax(-1).tolist()]
    assert [item.language for item in written(decoder.decode(list(memory), [1.0] * 3))] == best


def test_the_budget_comes_from_the_length_of_the_audio() -> None:
    model, tokenizer = tiny_whisper(3)
    often(model, 0.0)
    # Without its end token a transcript goes on until the budget is spent.
    options = DecodeOptions(
        max_tokens_per_second=5, min_budget=2, loop_repeats=50, loop_min_tokens=500
    )
    decoder = TranscriptDecoder(model, tokenizer, options)
    results = written(
        decoder.decode(list(tiny_memory(3)), [0.1, 2.0, 400.0], language="en", want_words=True)
    )
    assert [item.flags for item in results] == [("transcript_truncated",)] * 3
    assert [len(item.token_ids) for item in results] == [2, 11, 96 - 1 - 4]


def test_a_repetition_is_cut_and_flagged() -> None:
    model, tokenizer = tiny_whisper(0)
    with torch.no_grad():
        # A decoder whose hidden state never changes writes one token again and again.
        model.model.decoder.layer_norm.weight.zero_()
        model.model.decoder.layer_norm.bias.copy_(
            model.proj_out.weight[tokenizer("a")["input_ids"][0]]
        )
    options = DecodeOptions(min_budget=60)
    [item] = written(
        TranscriptDecoder(model, tokenizer, options).decode(list(tiny_memory(1)), [1.0])
    )
    assert item.flags == ("transcript_loop",)
    assert 1 <= len(item.token_ids) < 12


def test_confidence_is_the_geometric_mean_of_token_probabilities() -> None:
    item = Transcription("a", [5], [math.log(0.9), math.log(0.4)])
    assert item.confidence == pytest.approx(0.6)


def test_a_row_that_is_not_a_number_loses_no_other() -> None:
    model, tokenizer = tiny_whisper(5)
    decoder = TranscriptDecoder(model, tokenizer, ROOMY)
    memory = tiny_memory(3, 5)
    good = written(decoder.decode(list(memory), [1.0] * 3, language="en"))
    memory[1] = torch.nan
    results = decoder.decode(list(memory), [1.0] * 3, language="en")
    assert isinstance(results[1], DecodingError)
    for number in (0, 2):
        item = results[number]
        assert isinstance(item, Transcription)
        assert item.token_ids == good[number].token_ids


def test_unknown_languages_are_refused_by_name() -> None:
    model, tokenizer = tiny_whisper()
    decoder = TranscriptDecoder(model, tokenizer)
    assert decoder.languages == ("de", "en", "ja")
    with pytest.raises(UsageError, match="'xx'"):
        decoder.decode(list(tiny_memory(1)), [1.0], language="xx")
    english = TranscriptDecoder(*tiny_whisper(multilingual=False))
    assert english.languages == ()
    with pytest.raises(UsageError, match="English-only"):
        english.decode(list(tiny_memory(1)), [1.0], language="de")
    [item] = written(english.decode(list(tiny_memory(1)), [1.0], language="en"))
    assert item.language is None


def test_a_tokenizer_of_another_family_is_refused() -> None:
    from tiny import tiny_tokenizer

    model, _ = tiny_whisper()
    with pytest.raises(ModelError, match="notimestamps"):
        TranscriptDecoder(model, tiny_tokenizer("bytes"))


def test_suppressed_tokens_are_those_that_whisper_publishes() -> None:
    tokens = TranscriptDecoder(*tiny_whisper()).tokens
    encode = whisper_tokenizer().backend_tokenizer.encode
    for sign in ("(", "[", "♪", '"', " -"):
        assert encode(sign, add_special_tokens=False).ids[0] in tokens.never
    for word in ("yes", "-", "'", ".", "?"):
        assert encode(word, add_special_tokens=False).ids[0] not in tokens.never
    assert tokens.not_first == {*encode(" ", add_special_tokens=False).ids, tokens.end}
