"""Turn boundaries from speech probabilities and levels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmeta.errors import UsageError
from speechmeta.segmentation.chunking import quietest
from speechmeta.segmentation.turns import (
    Speech,
    TurnOptions,
    find_turns,
    speech_regions,
)

RATE = 8000
HOP = 64


def levels_of(seconds: float, value: float = 1.0) -> np.ndarray:
    return np.full(round(seconds * RATE / HOP), value, np.float32)


def speech(*seconds: tuple[float, float]) -> list[Speech]:
    return [Speech(round(start * RATE), round(end * RATE)) for start, end in seconds]


def turns(
    runs: list[Speech], options: TurnOptions, length: float = 60.0
) -> list[tuple[float, float]]:
    found = find_turns(
        runs, levels_of(length), options, rate=RATE, hop=HOP, samples=round(length * RATE)
    )
    return [(span.start / RATE, span.end / RATE) for span in found.spans]


def test_pauses_divide_and_gaps_do_not() -> None:
    options = TurnOptions(min_pause_seconds=0.5)
    runs = speech((1, 2), (2.4, 3), (3.5, 4), (9, 10))
    assert turns(runs, options) == [(1, 3), (3.5, 4), (9, 10)]
    assert turns(runs, TurnOptions(min_pause_seconds=0.3)) == [(1, 2), (2.4, 3), (3.5, 4), (9, 10)]


def test_a_change_of_speaker_divides() -> None:
    runs = [Speech(0, 8000, 0), Speech(8000, 16000, 1), Speech(17000, 24000, 1)]
    found = find_turns(runs, levels_of(4), TurnOptions(), rate=RATE, hop=HOP, samples=4 * RATE)
    assert [(span.start, span.end, span.speaker) for span in found.spans] == [
        (0, 8000, 0),
        (8000, 24000, 1),
    ]


def test_what_is_too_short_is_counted() -> None:
    found = find_turns(
        speech((1, 1.1), (5, 6), (8, 8.15)),
        levels_of(10),
        TurnOptions(min_turn_seconds=0.2),
        rate=RATE,
        hop=HOP,
        samples=10 * RATE,
    )
    assert len(found.spans) == 1
    assert found.skipped_samples == pytest.approx(0.25 * RATE)


def test_padding_stops_halfway_and_at_the_ends() -> None:
    found = find_turns(
        speech((0.1, 1), (1.6, 3), (9, 10)),
        levels_of(10),
        TurnOptions(padding_seconds=0.4, min_pause_seconds=0.5),
        rate=RATE,
        hop=HOP,
        samples=10 * RATE,
    )
    heard = [(span.clip_start / RATE, span.clip_end / RATE) for span in found.spans]
    assert heard == [(0.0, 1.3), (1.3, 3.4), (8.6, 10.0)]


def test_long_speech_is_cut_where_it_is_quietest() -> None:
    levels = levels_of(30)
    for second in (8.0, 13.5, 20.0):
        levels[round(second * RATE / HOP) + np.arange(-4, 5)] = 1e-4
    levels[round(3 * RATE / HOP)] = 0.0  # too early, and only a moment
    found = find_turns(
        speech((0, 29)),
        levels,
        TurnOptions(max_turn_seconds=10.4, padding_seconds=0.2),
        rate=RATE,
        hop=HOP,
        samples=30 * RATE,
    )
    cuts = [span.end / RATE for span in found.spans[:-1]]
    assert cuts == pytest.approx([8.0, 13.5, 20.0], abs=0.03)
    assert found.spans[0].clip_end == found.spans[0].end, "nothing is heard twice"
    assert found.spans[1].clip_start == found.spans[0].end


def test_quietest_prefers_a_stretch_over_a_moment() -> None:
    levels = levels_of(2)
    levels[100] = 0.0
    levels[180:186] = 0.1
    assert quietest(levels, HOP, 0, 2 * RATE) // HOP in range(181, 185)
    assert quietest(levels, HOP, 50, 60) in range(50, 61)
    assert quietest(levels_of(0.008), HOP, 0, 64) <= 64


def test_speech_goes_on_until_it_falls_below_the_lower_threshold() -> None:
    probabilities = np.array([0.4, 0.6, 0.4, 0.4, 0.1, 0.4, 0.4, 0.9], np.float32)
    assert speech_regions(probabilities, 0.5) == [(1, 4), (7, 8)]
    assert speech_regions(probabilities, 0.95) == []
    assert speech_regions(np.zeros(0, np.float32), 0.5) == []


def test_thresholds_by_rate() -> None:
    assert TurnOptions().threshold_at(8000) < TurnOptions().threshold_at(16000)
    assert TurnOptions(threshold=0.7).threshold_at(8000) == 0.7


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.0},
        {"threshold": 1.0},
        {"min_pause_seconds": -1.0},
        {"padding_seconds": float("nan")},
        {"max_turn_seconds": 0.5},
        {"max_turn_seconds": 3.0, "min_turn_seconds": 2.0},
        {"min_turn_seconds": None},
        {"padding_seconds": 1e308},
    ],
)
def test_options_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        TurnOptions(**wrong)


def test_what_leaves_no_room_for_speech_is_named() -> None:
    with pytest.raises(UsageError, match=r"leave 0\.00 s of speech .* \(padding_seconds\)"):
        TurnOptions(padding_seconds=9.0)
    with pytest.raises(UsageError, match="padding_seconds is 1e\\+308"):
        TurnOptions(padding_seconds=1e308)


@given(
    st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 200_000)), max_size=20),
    st.floats(0.0, 2.0),
    st.floats(0.0, 1.0),
    st.floats(4.0, 30.0),
    st.floats(0.0, 1.0),
)
def test_turns_are_in_order_bounded_and_complete(
    gaps: list[tuple[int, int]], pause: float, shortest: float, longest: float, padding: float
) -> None:
    runs, place = [], 0
    for gap, length in gaps:
        runs.append(Speech(place + gap, place + gap + length))
        place += gap + length
    samples = place + 100
    random = np.random.default_rng(len(gaps))
    levels = random.random(samples // HOP + 1).astype(np.float32)
    options = TurnOptions(
        min_pause_seconds=pause,
        min_turn_seconds=shortest,
        max_turn_seconds=longest,
        padding_seconds=padding,
    )
    found = find_turns(runs, levels, options, rate=RATE, hop=HOP, samples=samples)
    for before, after in pairwise(found.spans):
        assert before.end <= after.start
        assert before.clip_end <= after.clip_start
    for span in found.spans:
        assert 0 <= span.clip_start <= span.start < span.end <= span.clip_end <= samples
        assert span.clip_end - span.clip_start <= longest * RATE + 2
    covered = sum(span.samples for span in found.spans) + found.skipped_samples
    assert covered >= sum(run.samples for run in runs)
