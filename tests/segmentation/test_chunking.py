"""Long audio is cut in one place, where it is quiet, and nothing is left out."""

from __future__ import annotations

import itertools
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from speechmeta.segmentation.chunking import cut_quietly, divide, divide_at_pauses

HOP = 64


@given(st.integers(0, 10_000), st.integers(1, 500_000), st.integers(1000, 100_000))
def test_pieces_leave_nothing_out(start: int, length: int, limit: int) -> None:
    levels = np.random.default_rng(length).random((start + length) // HOP + 1).astype(np.float32)
    pieces = list(divide(start, start + length, limit, levels, HOP))
    assert pieces[0][0] == start
    assert pieces[-1][1] == start + length
    assert all(first[1] == second[0] for first, second in pairwise(pieces))
    assert all(0 < end - begin <= limit for begin, end in pieces)


def test_cut_quietly_leaves_nothing_out() -> None:
    wave = np.random.default_rng(1).standard_normal(100_000).astype(np.float32)
    for seconds in (0.5, 1.0, 6.0, 10.0):
        bounds = cut_quietly(wave, seconds)
        assert bounds[0][0] == 0
        assert bounds[-1][1] == len(wave)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
        assert all(0 < end - start <= seconds * 16000 for start, end in bounds)


def test_a_waveform_is_cut_in_its_pause() -> None:
    wave = np.random.default_rng(2).standard_normal(12 * 16000).astype(np.float32)
    wave[7 * 16000 : 7 * 16000 + 4000] = 0
    (first, second) = cut_quietly(wave, 10.0)
    assert 7.0 < first[1] / 16000 < 7.25
    assert second == (first[1], len(wave))


def test_known_pauses_are_cut_in_their_middle_and_speech_without_one_is_marked() -> None:
    speech = [(0, 400), (500, 900), (1000, 2600)]
    assert divide_at_pauses(2600, 1000, speech) == [
        (0, 950, False),
        (950, 1950, True),
        (1950, 2600, False),
    ]
    assert divide_at_pauses(300, 1000, []) == [(0, 300, False)]
