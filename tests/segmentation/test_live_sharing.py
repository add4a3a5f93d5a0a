"""A call that goes on is compared as the file that would end now."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmeta.segmentation.live_sharing import LiveSharing
from speechmeta.segmentation.sharing import Sharing

RATE, WINDOW, BLOCK, THRESHOLD = 8000, 256, 48, 0.35
WINDOWS = 130

Waveform = npt.NDArray[np.float32]


def two_that_leak(seed: int) -> tuple[Waveform, Waveform]:
    """Samples (2, n) of bursts of noise, each in the other too, and where they are (2, windows)."""
    random = np.random.default_rng(seed)
    own = np.zeros((2, WINDOWS), np.float32)
    for row in own:
        for start in random.integers(0, WINDOWS, 4):
            row[start : start + int(random.integers(3, 25))] = 0.9
    wave = np.repeat(own, WINDOW, axis=1) * random.normal(0, 0.1, (2, WINDOWS * WINDOW))
    late = np.pad(wave, ((0, 0), (400, 0)))[::-1, : wave.shape[1]]
    heard = (wave + 0.2 * late + random.normal(0, 1e-4, wave.shape)).astype(np.float32)
    both = np.maximum(own, np.pad(own, ((0, 0), (2, 0)))[::-1, :WINDOWS])
    return heard, both


def of_file(heard: Waveform, speech: Waveform) -> npt.NDArray[np.bool_]:
    sharing = Sharing(2, WINDOW, RATE, THRESHOLD)
    for first in range(0, speech.shape[1], BLOCK):
        part = slice(first * WINDOW, (first + BLOCK) * WINDOW)
        sharing.push(heard[:, part], speech[:, first : first + BLOCK])
    return sharing.foreign(speech)[0]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 50),
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=5),
    known=st.integers(20, WINDOWS),
)
def test_windows_count_for_the_other_as_in_the_file(
    seed: int, sizes: list[int], known: int
) -> None:
    heard, speech = two_that_leak(seed)
    heard, speech = heard[:, : known * WINDOW], speech[:, :known]
    sharing = LiveSharing(2, WINDOW, RATE, THRESHOLD, BLOCK)
    at, turn = 0, 0
    while at < known:
        size = sizes[turn % len(sizes)]
        sharing.push(heard[:, at * WINDOW : (at + size) * WINDOW], speech[:, at : at + size])
        at, turn = at + size, turn + 1
    found, _ = sharing.foreign(speech)
    np.testing.assert_array_equal(found, of_file(heard, speech))


def test_leaks_are_found_at_all() -> None:
    assert any(of_file(*two_that_leak(seed)).any() for seed in range(3))


@pytest.mark.parametrize("forgotten", [5, 47, 48, 60, 110])
def test_what_is_forgotten_leaves_the_rest_as_it_is(forgotten: int) -> None:
    heard, speech = two_that_leak(1)
    whole = LiveSharing(2, WINDOW, RATE, THRESHOLD, BLOCK)
    part = LiveSharing(2, WINDOW, RATE, THRESHOLD, BLOCK)
    for first in range(0, WINDOWS, 10):
        samples = heard[:, first * WINDOW : (first + 10) * WINDOW]
        whole.push(samples, speech[:, first : first + 10])
        part.push(samples, speech[:, first : first + 10])
        if first <= forgotten < first + 10:
            part.forget(speech[:, :forgotten])
    kept, _ = part.foreign(speech[:, forgotten:])
    # A run that was begun before is judged by what is left of it.
    expected, _ = whole.foreign(speech)
    same = kept == expected[:, forgotten:]
    first_gap = [int(np.argmin(row)) if row[0] else 0 for row in speech[:, forgotten:] > 0]
    for row, gap in enumerate(first_gap):
        assert same[row, gap:].all()
