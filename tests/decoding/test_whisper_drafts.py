"""Drafts: what a transcript is likely to be spares passes, and changes nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from whisper_tiny import tiny_memory, tiny_whisper

from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.whisper import TranscriptDecoder, Transcription
from speechmeta.errors import SpeechMetaError

pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {"min_budget": 24, "loop_repeats": 10, "loop_min_tokens": 99}
ROWS = 6


def written(results: Sequence[Transcription | SpeechMetaError]) -> list[Transcription]:
    found = [item for item in results if isinstance(item, Transcription)]
    assert len(found) == len(results)
    return found


def opinionated(seed: int, **options: Any) -> TranscriptDecoder:
    """One whose transcripts end at different lengths."""
    model, tokenizer = tiny_whisper(seed)
    with torch.no_grad():
        model.proj_out.weight[model.config.eos_token_id] *= 2
    return TranscriptDecoder(model, tokenizer, DecodeOptions(**{**OPTIONS, **options}))


def same(ours: Transcription, other: Transcription) -> None:
    assert (ours.text, ours.token_ids, ours.flags) == (other.text, other.token_ids, other.flags)
    assert ours.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-4)
    assert ours.no_speech_probability == pytest.approx(other.no_speech_probability, rel=1e-4)
    assert ours.language == other.language


@pytest.mark.parametrize("language", ["en", None])
@pytest.mark.parametrize("seed", range(4))
def test_a_transcript_is_the_same_whatever_was_guessed(seed: int, language: str | None) -> None:
    decoder = opinionated(seed)
    memory, sizes = tiny_memory(ROWS, seed), [50, 12, 33, 50, 8, 21]
    rows = [states[:size] for states, size in zip(memory, sizes, strict=True)]
    alone = written(decoder.decode(rows, [1.0] * ROWS, language=language, want_words=True))
    texts = [item.text for item in alone]
    guesses: list[list[str | None]] = [
        list(texts),
        [text[: len(text) // 2] for text in texts],
        [text + " and more" for text in texts],
        [None, "", "thank you very much", "  ", "<|endoftext|> yes", "東京へ行きます。"],
        [text[: len(text) // 2] + "?" + text[len(text) // 2 + 1 :] for text in texts],
        [text * 9 for text in texts],
    ]
    for drafts in guesses:
        options: dict[str, Any] = {"language": language, "want_words": True, "drafts": drafts}
        for ours, other in zip(
            written(decoder.decode(rows, [1.0] * ROWS, **options)), alone, strict=True
        ):
            same(ours, other)
            assert ours.words is not None
            assert other.words is not None
            assert [word.word for word in ours.words] == [word.word for word in other.words]


def test_a_right_guess_takes_one_pass() -> None:
    decoder = opinionated(1)
    memory = list(tiny_memory(ROWS, 1))
    alone = written(decoder.decode(memory, [1.0] * ROWS, language="en"))
    # What the tokenizer makes of a text need not be what a random model wrote.
    drafts = [
        item.text if decoder._plain(" " + item.text) == item.token_ids else None for item in alone
    ]
    assert sum(draft is not None for draft in drafts) >= 1
    told = written(decoder.decode(memory, [1.0] * ROWS, language="en", drafts=drafts))
    for draft, ours, other in zip(drafts, told, alone, strict=True):
        same(ours, other)
        assert ours.passes == (1 if draft else other.passes)


def test_no_speech_leaves_a_transcript_empty_in_spite_of_a_guess() -> None:
    decoder = opinionated(2)
    memory = list(tiny_memory(2, 2))
    found = written(
        decoder.decode(
            memory, [1.0] * 2, language="en", no_speech_above=[-1.0, None], drafts=["yes", "yes"]
        )
    )
    assert found[0].text == ""
    assert found[0].token_ids == []
    same(found[1], written(decoder.decode(memory[1:], [1.0], language="en"))[0])


def test_beams_take_no_guess() -> None:
    decoder = opinionated(3, beams=3)
    memory = list(tiny_memory(3, 3))
    alone = written(decoder.decode(memory, [1.0] * 3, language="en"))
    told = written(
        decoder.decode(memory, [1.0] * 3, language="en", drafts=[item.text for item in alone])
    )
    for ours, other in zip(told, alone, strict=True):
        same(ours, other)
        assert ours.passes == other.passes
