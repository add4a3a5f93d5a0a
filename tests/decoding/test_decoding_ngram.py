"""The n-gram model, and how the CTC search leans on it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from speechmeta.decoding.ctc_search import prefix_beam_search
from speechmeta.decoding.fusion import Fusion
from speechmeta.decoding.ngram import NGRAM_FILE, NgramModel
from speechmeta.errors import ModelError, UsageError

END = 0
TEXT = [([1, 2, 3], 4), ([1, 2, 4], 1), ([5, 2, 4], 3)]


@pytest.fixture
def model() -> NgramModel:
    return NgramModel.estimate(TEXT, vocab_size=7, boundary=END, order=4, least=(1,))


@pytest.mark.parametrize("context", [[], [1], [1, 2], [5, 2], [6], [6, 6, 6], [1, 2, 3]])
def test_probabilities_add_up(model: NgramModel, context: list[int]) -> None:
    assert np.exp(model.log_probs(context)).sum() == pytest.approx(1.0, abs=1e-3)


def test_longer_contexts_decide(model: NgramModel) -> None:
    assert np.argmax(model.log_probs([1, 2])) == 3
    assert np.argmax(model.log_probs([5, 2])) == 4
    assert np.argmax(model.log_probs([1, 2, 3])) == END
    # After the start, "1 2" goes on with 3 in 4 of 5 sentences: (4 - 0.75) / 5, and a share of
    # what the two discounts leave to shorter contexts, which like 3 as well.
    assert (4 - 0.75) / 5 < math.exp(model.log_probs([1, 2])[3]) < (4 - 0.75) / 5 + 1.5 / 5
    # What was never seen falls back on how common the tokens are.
    np.testing.assert_allclose(model.log_probs([6]), model.log_probs([6, 6]))


def test_one_token_as_among_all(model: NgramModel) -> None:
    for context in ([], [1], [1, 2], [6], [1, 2, 3, 1, 2]):
        row = model.log_probs(context)
        for token in range(7):
            assert model.log_prob(context, token) == pytest.approx(row[token])


def test_score_is_the_sum_over_the_sentence(model: NgramModel) -> None:
    steps = [
        model.log_probs([])[1],
        model.log_probs([1])[2],
        model.log_probs([1, 2])[3],
        model.log_probs([1, 2, 3])[END],
    ]
    assert model.score([1, 2, 3]) == pytest.approx(sum(steps))
    assert model.score([1, 2, 3]) > model.score([3, 2, 1])


def test_repeated_sentences_count_as_often() -> None:
    once = NgramModel.estimate([([1], 3), ([2], 1)], 4, END, 2)
    listed = NgramModel.estimate([([1], 1)] * 3 + [([2], 1)], 4, END, 2)
    np.testing.assert_allclose(once.log_probs([]), listed.log_probs([]))


def test_rare_long_ngrams_are_left_out() -> None:
    full = NgramModel.estimate(TEXT, 7, END, 4, least=(1,))
    short = NgramModel.estimate(TEXT, 7, END, 4, least=(1, 1, 4))
    assert len(short._arrays["tokens.3"]) < len(full._arrays["tokens.3"])
    assert np.exp(short.log_probs([END, 5, 2])).sum() == pytest.approx(1.0, abs=1e-3)


def test_save_and_load(model: NgramModel, tmp_path: Path) -> None:
    assert NgramModel.load(tmp_path) is None
    model.save(tmp_path)
    again = NgramModel.load(tmp_path)
    assert again is not None
    assert (again.order, again.boundary) == (4, END)
    assert again.score([1, 2, 4]) == model.score([1, 2, 4])
    (tmp_path / NGRAM_FILE).write_bytes(b"damaged")
    with pytest.raises(ModelError, match="cannot read"):
        NgramModel.load(tmp_path)


@pytest.mark.parametrize("order", [1, 40])
def test_orders_that_do_not_fit(order: int) -> None:
    with pytest.raises(UsageError, match="order"):
        NgramModel.estimate(TEXT, 7, END, order)


def test_no_text() -> None:
    with pytest.raises(UsageError, match="no text"):
        NgramModel.estimate([], 7, END)


def heard(*tokens: tuple[int, ...]) -> np.ndarray:
    """Frames in which the given tokens are equally likely, with a blank (6) after each."""
    frames = []
    for likely in tokens:
        for chosen in (likely, (6,)):
            row = np.full(7, 1e-6)
            row[list(chosen)] = 1.0 / len(chosen)
            frames.append(np.log(row / row.sum()))
    return np.array(frames)


def test_the_search_spells_as_the_ngram_does(model: NgramModel) -> None:
    doubtful = heard((1,), (2,), (4, 3))
    blind = prefix_beam_search(doubtful, 6, 8)
    assert {blind[0][0], blind[1][0]} == {(1, 2, 3), (1, 2, 4)}
    spelled = Fusion(ngram=model, ngram_weight=1.0)
    assert prefix_beam_search(doubtful, 6, 8, fusion=spelled)[0][0] == (1, 2, 3)
    after_five = prefix_beam_search(heard((5,), (2,), (4, 3)), 6, 8, fusion=spelled)
    assert after_five[0][0] == (5, 2, 4)
    # Clear speech is not overruled.
    clear = prefix_beam_search(heard((1,), (2,), (4,)), 6, 8, fusion=spelled)
    assert clear[0][0] == (1, 2, 4)


def test_scores_of_the_search(model: NgramModel) -> None:
    frames = heard((1,), (2,), (4, 3))
    plain = dict(prefix_beam_search(frames, 6, 8))
    fused = dict(prefix_beam_search(frames, 6, 8, fusion=Fusion(0.2, model, 0.5)))
    for tokens in ((1, 2, 3), (1, 2, 4)):
        expected = plain[tokens] + 0.5 * model.score(tokens) + 0.2 * len(tokens)
        assert fused[tokens] == pytest.approx(expected, abs=1e-3)
