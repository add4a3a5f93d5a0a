"""Word times: the cheapest path, whole words, and true times of synthetic speech."""

from __future__ import annotations

import numpy as np
import pytest
from whisper_tiny import tiny_memory, tiny_whisper

from speechmeta.decoding.options import DecodeOptions
from speechmeta.decoding.whisper import TranscriptDecoder, Transcription
from speechmeta.decoding.word_times import align, spans


def cheapest(costs: np.ndarray) -> float:
    """The cost of the best path, cell by cell."""
    tokens, positions = costs.shape
    total = np.full((tokens, positions), np.inf)
    for token in range(tokens):
        for position in range(positions):
            ways = [0.0] if token == 0 else []
            if token:
                ways.append(total[token - 1, position])
            if position:
                ways.append(total[token, position - 1])
            if token and position:
                ways.append(total[token - 1, position - 1])
            total[token, position] = costs[token, position] + min(ways)
    return float(total[-1, -1])


@pytest.mark.parametrize("seed", range(20))
def test_no_path_is_cheaper(seed: int) -> None:
    random = np.random.default_rng(seed)
    tokens, positions = int(random.integers(1, 9)), int(random.integers(1, 30))
    costs = random.standard_normal((tokens, positions))
    first = align(costs)
    assert list(first) == sorted(first)
    assert first[0] >= 0
    assert first[-1] < positions
    # Each token goes on up to where the next one begins, or to the position before.
    best = np.inf
    for shared in range(2 ** (tokens - 1)):
        path, good = 0.0, True
        for token in range(tokens):
            end = positions
            if token + 1 < tokens:
                end = int(first[token + 1]) + (shared >> token & 1)
            good &= end > first[token]
            path += costs[token, first[token] : end].sum()
        best = min(best, path) if good else best
    assert best == pytest.approx(cheapest(costs))


def test_a_token_stands_where_its_heads_look() -> None:
    costs = np.ones((3, 40))
    costs[0, 10:14] = costs[1, 14:30] = costs[2, 30:] = -1
    assert align(costs).tolist() == [10, 14, 30]


def test_words_joined_by_spaces_are_the_text() -> None:
    pieces = [b" I", b"'m", b" f", b"ine", b", ", b"than", b"ks.", b" caf", b"\xc3", b"\xa9!"]
    found = spans(pieces)
    assert [word for word, _ in found] == "I'm fine, thanks. café!".split()
    assert [numbers for _, numbers in found] == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]


def test_without_spaces_every_whole_character_counts() -> None:
    pieces = [*(bytes([byte]) for byte in "東".encode()), "京へ".encode()]
    assert spans(pieces, unspaced=True) == [("東", [0, 1, 2]), ("京へ", [3])]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("seed", range(3))
def test_words_stay_in_their_clip_and_in_order(seed: int, attention: str) -> None:
    model, tokenizer = tiny_whisper(seed, attention=attention)
    if seed == 2:
        # A checkpoint that does not say which heads follow the audio.
        del model.generation_config.alignment_heads
    decoder = TranscriptDecoder(model, tokenizer, DecodeOptions(min_budget=20, loop_min_tokens=99))
    seconds = [0.1, 0.4, 1.0, 0.73]
    sizes = (20, 50, 50, 40)
    memory = [item[:size] for item, size in zip(tiny_memory(4, seed), sizes, strict=True)]
    results = decoder.decode(memory, seconds, language="en", want_words=True)
    for number, (item, length) in enumerate(zip(results, seconds, strict=True)):
        assert isinstance(item, Transcription)
        assert item.words is not None
        assert [word.word for word in item.words] == item.text.split()
        assert item.passes <= len(item.token_ids) + 2
        times = [time for word in item.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert all(0 <= time <= length for time in times)
        assert all(0 <= word.probability <= 1 for word in item.words)
        alone = decoder.decode(
            [memory[number]], [length],
            language="en", want_words=True,
        )[0]  # fmt: skip
        assert isinstance(alone, Transcription)
        assert [(word.word, word.start, word.end) for word in alone.words or []] == [
            (word.word, word.start, word.end) for word in item.words
        ]


@pytest.mark.parametrize("language", ["en", None])
def test_a_text_from_elsewhere_is_timed_as_if_it_had_been_written(
    language: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny_whisper(3)
    decoder = TranscriptDecoder(model, tokenizer, DecodeOptions(max_transcript_tokens=12))
    memory, seconds = list(tiny_memory(4)), [1.0, 0.8, 1.0, 0.6]
    own = decoder.decode(memory, seconds, language=language, want_words=True)
    written = [item for item in own if isinstance(item, Transcription) and item.text]
    assert len(written) == 4
    texts = [item.text for item in written]
    # Random models write tokens that no tokenizer chooses.
    ids = iter([item.token_ids for item in written])
    monkeypatch.setattr(decoder, "_plain", lambda _: next(ids))
    for item, words in zip(written, decoder.align(memory, seconds, texts, language), strict=True):
        assert words is not None
        for mine, theirs in zip(item.words or [], words, strict=True):
            assert (mine.word, mine.start, mine.end) == (theirs.word, theirs.start, theirs.end)
            assert mine.probability == pytest.approx(theirs.probability, rel=1e-3)


def test_control_tokens_in_a_text_from_elsewhere_are_text() -> None:
    model, tokenizer = tiny_whisper()
    decoder = TranscriptDecoder(model, tokenizer)
    text = "one <|endoftext|> <|0.00|> two"
    (words,) = decoder.align(list(tiny_memory(1)), [1.0], [text], "en")
    assert words is not None
    assert [word.word for word in words] == text.split()
    assert decoder.align(list(tiny_memory(1)), [1.0], ["long " * 100], "en") == [None]
