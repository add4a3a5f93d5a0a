"""The word model, and how it and the n-gram of tokens judge a prefix together."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from speechmeta.decoding.ctc_search import prefix_beam_search
from speechmeta.decoding.fusion import Fusion, Heard
from speechmeta.decoding.ngram import NgramModel
from speechmeta.decoding.words import BOUNDARY, UNKNOWN, WORDS_FILE, WordModel
from speechmeta.errors import ModelError, UsageError

TEXT = [("the cat sat", 6), ("the dog sat", 2), ("a cat ran", 3), ("zebra", 1)]
PIECES = [None, b" the", b" c", b"at", b"ut", b" s", b" dog", None]
"""By token; 0 is the end, 7 the blank."""


@pytest.fixture
def words() -> WordModel:
    return WordModel.estimate(TEXT, vocab_size=6)


@pytest.fixture
def ngram() -> NgramModel:
    return NgramModel.estimate([([1, 2, 3, 5, 3], 2), ([1, 6], 1)], 7, 0, 3, (1,))


def test_what_is_known(words: WordModel) -> None:
    assert set(words.words) == {"the", "cat", "sat", "a", "ran", "dog"}
    assert words.words[0] == "cat"  # the commonest
    assert words.id_of("zebra") == UNKNOWN
    the, cat, dog, sat = map(words.id_of, ("the", "cat", "dog", "sat"))
    assert words.log_prob((the,), cat) > words.log_prob((the,), dog) > words.log_prob((the,), sat)
    everything = range(len(words.words) + 2)
    for history in ((), (the,), (the, cat), (UNKNOWN,)):
        total = sum(math.exp(words.log_prob(history, word)) for word in everything)
        assert total == pytest.approx(1.0, abs=1e-3)


def test_unknown_words_are_counted_together(words: WordModel) -> None:
    # One sentence of twelve is a word that is not known, and ends after it.
    assert math.exp(words.log_prob((), UNKNOWN)) < 1 / 12
    assert math.exp(words.log_prob((UNKNOWN,), BOUNDARY)) > 0.2


def test_saved_and_loaded(words: WordModel, tmp_path: Path) -> None:
    words.save(tmp_path)
    loaded = WordModel.load(tmp_path)
    assert loaded is not None
    assert loaded.words == words.words
    for word in range(8):
        assert loaded.log_prob((2, 3), word) == words.log_prob((2, 3), word)
    assert WordModel.load(tmp_path / "elsewhere") is None


def test_damaged_file(tmp_path: Path) -> None:
    (tmp_path / WORDS_FILE).write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="damaged"):
        WordModel.load(tmp_path)


def test_limits() -> None:
    with pytest.raises(UsageError, match="65534"):
        WordModel.estimate(TEXT, vocab_size=70_000)
    with pytest.raises(UsageError, match="no text"):
        WordModel.estimate([])


def said(fusion: Fusion, *tokens: int) -> Heard:
    prefix = Heard()
    for token in tokens:
        prefix = fusion.extend(prefix, token, fusion.gain(prefix, token))
    return prefix


def test_a_finished_word_is_judged_in_place_of_its_tokens(
    words: WordModel, ngram: NgramModel
) -> None:
    fusion = Fusion(0.5, ngram, 0.3, words, 0.7, PIECES)
    the, cat = words.id_of("the"), words.id_of("cat")
    # Unfinished: the n-gram's preview.
    preview = 0.3 * (ngram.log_probs([1])[2] + ngram.log_probs([1, 2])[3])
    judged = 0.7 * words.log_prob((), the)
    assert said(fusion, 1, 2, 3).score == pytest.approx(3 * 0.5 + judged + preview)
    assert said(fusion, 1, 2, 3).word == b"cat"
    # Finished: the words alone, and the end of the sentence in both models.
    judged += 0.7 * (words.log_prob((the,), cat) + words.log_prob((the, cat), BOUNDARY))
    ending = 0.3 * ngram.log_probs([1, 2, 3])[0]
    assert fusion.finish(said(fusion, 1, 2, 3)) == pytest.approx(3 * 0.5 + judged + ending)


def test_unknown_words_cost_their_spelling(words: WordModel, ngram: NgramModel) -> None:
    fusion = Fusion(0.0, ngram, 0.3, words, 1.0, PIECES)
    the = words.id_of("the")
    spelling = ngram.log_probs([1])[2] + ngram.log_probs([1, 2])[4]
    expected = (
        words.log_prob((), the)
        + words.log_prob((the,), UNKNOWN)
        + spelling
        + words.log_prob((the, UNKNOWN), BOUNDARY)
        + 0.3 * ngram.log_probs([1, 2, 4])[0]
    )
    assert fusion.finish(said(fusion, 1, 2, 4)) == pytest.approx(expected)


def test_nothing_added_without_weights(words: WordModel, ngram: NgramModel) -> None:
    fusion = Fusion(0.0, ngram, 0.0, words, 0.0, PIECES)
    assert fusion.finish(said(fusion, 1, 2, 3)) == 0.0


def test_the_search_prefers_words_that_exist(words: WordModel, ngram: NgramModel) -> None:
    frames = []
    for likely in ((1,), (2,), (4, 3)):
        for chosen in (likely, (7,)):
            row = np.full(8, 1e-6)
            row[list(chosen)] = [0.6, 0.4][: len(chosen)]
            frames.append(np.log(row / row.sum()))
    blind = prefix_beam_search(np.array(frames), 7, 8)
    assert blind[0][0] == (1, 2, 4)
    fused = prefix_beam_search(
        np.array(frames), 7, 8, fusion=Fusion(0.0, ngram, 0.2, words, 0.5, PIECES)
    )
    assert fused[0][0] == (1, 2, 3)
