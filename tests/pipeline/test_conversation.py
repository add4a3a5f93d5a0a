"""Conversation measures on constructed calls whose true values are known by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmeta.pipeline.conversation import (
    Run,
    interruptions,
    longest_monologue,
    mean_loudness,
    measure,
    pool,
    response_latencies,
    summarize,
    talk_runs,
)
from speechmeta.schema import SpeakerMeta, Turn


def turn(
    start: float, end: float, speaker: str = "a", loudness: float | None = None, **values: Any
) -> Turn:
    probabilities = values.pop("probabilities", {})
    meta = {"SpeechActivity": True, **values, "probabilities": probabilities}
    return Turn(
        start=start,
        end=end,
        channel=0,
        speaker=speaker,
        meta=SpeakerMeta.model_validate(meta),
        loudness_db=loudness,
    )


def emotions(**shares: float) -> dict[str, dict[str, float]]:
    return {"Emotion": shares}


def test_times_of_an_ordinary_call() -> None:
    # a: 0-4, 6-10, 15-16; b: 5-6, 9-14. Both talk from 9 to 10.
    turns = [
        turn(0, 4, "a", Transcript="one two three four five six seven eight"),
        turn(5, 6, "b", Transcript="yes"),
        turn(6, 10, "a", Transcript="one two three four"),
        turn(9, 14, "b", Transcript="one two three four five six"),
        turn(15, 16, "a", Transcript=""),
    ]
    call = measure(turns, 20.0, ["a", "b"])
    assert call.talk_seconds == 14.0
    assert call.silence_seconds == 6.0
    assert call.overlap_seconds == 1.0
    assert [(item.at, item.by, item.of, item.overlap_seconds) for item in call.interruptions] == [
        (9.0, "b", "a", 1.0)
    ]
    # Latencies: b after 1 s, a after 0 s, a after 1 s; b at 9 interrupts and has none.
    assert call.response_latency_seconds == 1.0
    assert call.words_per_minute == pytest.approx(60 * 19 / 15, abs=0.05)
    assert call.longest_monologue is not None
    assert (call.longest_monologue.start, call.longest_monologue.end) == (9.0, 14.0)

    a, b = (summarize(turns, 20.0, name, number) for number, name in enumerate("ab"))
    assert (a.talk_seconds, b.talk_seconds) == (9.0, 6.0)
    assert (a.talk_share, b.talk_share) == (0.6, 0.4)
    assert (a.silence_seconds, b.silence_seconds) == (11.0, 14.0)
    assert (a.overlap_seconds, b.overlap_seconds) == (1.0, 1.0)
    assert (a.interruptions, b.interruptions) == (0, 1)
    assert (a.turns, b.turns) == (3, 2)
    assert a.words_per_minute == 80.0
    assert b.words_per_minute == 70.0
    assert a.response_latency_seconds == 0.5
    assert b.response_latency_seconds == 1.0
    assert a.longest_monologue_seconds == 4.0
    assert (a.channel, b.channel) == (0, 1)


def test_a_call_without_turns_has_no_measures() -> None:
    call = measure([], 10.0, ["a"])
    assert (call.talk_seconds, call.silence_seconds, call.overlap_seconds) == (0.0, 10.0, 0.0)
    assert call.interruptions == []
    assert call.emotion_by_quarter == []
    assert call.longest_monologue is None
    assert call.response_latency_seconds is call.words_per_minute is call.loudness_db is None
    nobody = summarize([], 10.0, "a", None)
    assert (nobody.talk_seconds, nobody.turns, nobody.talk_share) == (0.0, 0, None)
    assert nobody.emotion == {}
    assert nobody.gender is None


def test_turns_without_speech_do_not_count() -> None:
    quiet = turn(0, 5, "a", SpeechActivity=False)
    assert measure([quiet], 10.0, ["a"]).talk_seconds == 0.0
    assert summarize([quiet], 10.0, "a", 0).turns == 0
    # Where speech activity was not asked for, every turn is one.
    unasked = Turn(start=0, end=5, channel=0, speaker="a", meta=SpeakerMeta(transcript="x"))
    assert measure([unasked], 10.0, ["a"]).talk_seconds == 5.0


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ((8.0, 12.0), [(8.0, "b")]),  # b takes the floor
        ((4.0, 6.0), [(4.0, "b")]),  # b talks into it, a goes on
        ((4.0, 4.8), []),  # a sign of listening
        ((9.8, 12.0), []),  # an ordinary change with a little overlap
        ((9.8, 10.2), []),
        ((0.1, 5.0), []),  # both began together
        ((10.0, 12.0), []),
        ((9.5, 10.4), [(9.5, "b")]),  # short, but b has the last word
    ],
)
def test_what_an_interruption_is(
    second: tuple[float, float], expected: list[tuple[float, str]]
) -> None:
    runs = talk_runs([turn(0, 10, "a"), turn(*second, "b")])
    assert [(item.at, item.by) for item in interruptions(runs)] == expected


def test_turns_cut_for_length_are_one_run() -> None:
    runs = talk_runs([turn(0, 10), turn(10, 18), turn(10.05, 12, "b"), turn(18.6, 19)])
    assert runs == [Run("a", 0, 18), Run("b", 10.05, 12), Run("a", 18.6, 19)]
    assert [item.by for item in interruptions(runs)] == ["b"]


def test_a_latency_counts_for_who_answers_in_silence() -> None:
    runs = [Run("a", 0, 2), Run("a", 3, 4), Run("b", 4.5, 6), Run("a", 5, 5.5), Run("a", 8, 9)]
    # a at 5 talks into b's run; a at 8 answers b, who ended last.
    assert response_latencies(runs) == {"b": [0.5], "a": [2.0]}


def test_a_monologue_survives_signs_of_listening() -> None:
    runs = [
        Run("a", 0, 5),
        Run("b", 5.2, 5.9),  # a sign of listening between two runs
        Run("a", 6, 12),
        Run("a", 13.5, 15),
        Run("b", 16, 18),
        Run("a", 18, 20),
        Run("a", 22.5, 30),  # after too long a pause
    ]
    found = longest_monologue(runs, "a")
    assert found is not None
    assert (found.start, found.end) == (0.0, 15.0)
    assert longest_monologue(runs, "c") is None


def test_emotion_by_quarter() -> None:
    turns = [
        turn(0, 10, probabilities=emotions(Happy=1.0, Sad=0.0), Emotion="Happy"),
        turn(12, 26, probabilities=emotions(Happy=0.5, Sad=0.5), Emotion="Happy"),
        turn(26, 30, "b", probabilities=emotions(Happy=0.0, Sad=1.0), Emotion="Sad"),
    ]
    quarters = measure(turns, 40.0, ["a", "b"]).emotion_by_quarter
    assert quarters[0] == {"Happy": 1.0, "Sad": 0.0}
    assert quarters[1] == {"Happy": 0.5, "Sad": 0.5}
    # 6 s of even odds and 4 s of sadness.
    assert quarters[2] == {"Happy": 0.3, "Sad": 0.7}
    assert quarters[3] == {}
    assert summarize(turns, 40.0, "b", 1).emotion_by_quarter == [{}, {}, {"Happy": 0, "Sad": 1}, {}]
    assert measure([turn(0, 5)], 10.0, ["a"]).emotion_by_quarter == []


def test_labels_are_weighted_by_duration() -> None:
    turns = [
        turn(0, 1, Gender="Male", probabilities={"Gender": {"Female": 0.1, "Male": 0.9}}),
        turn(2, 5, Gender="Female", probabilities={"Gender": {"Female": 0.7, "Male": 0.3}}),
    ]
    found = summarize(turns, 10.0, "a", 0)
    assert found.gender is not None
    assert found.gender.value == "Female"
    assert found.gender.confidence == pytest.approx((0.1 + 3 * 0.7) / 4)
    unsure = summarize(turns, 10.0, "a", 0, min_confidence=0.6).gender
    assert unsure is not None
    assert unsure.value is None
    assert unsure.confidence == found.gender.confidence
    assert found.age is None, "not asked for"
    # A label without probabilities counts as certain.
    assert pool([turn(0, 1, Age="Young"), turn(1, 2, Age="Senior")], "Age") == {
        "Young": 0.5,
        "Senior": 0.5,
    }


def test_loudness_is_averaged_as_power() -> None:
    turns = [turn(0, 1, loudness=-10.0), turn(1, 4, loudness=-20.0), turn(5, 6)]
    assert mean_loudness(turns) == round(10 * math.log10((0.1 + 3 * 0.01) / 4), 1)
    assert mean_loudness([turn(0, 1)]) is None


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 900), st.integers(1, 100)), max_size=12
    )
)
def test_times_agree_with_counting_moments(parts: list[tuple[str, int, int]]) -> None:
    turns = [turn(start / 10, (start + length) / 10, who) for who, start, length in parts]
    moments = np.zeros((3, 1000), bool)
    for who, start, length in parts:
        moments["abc".index(who), start : start + length] = True
    call = measure(turns, 100.0, list("abc"))
    # Turns up to 0.1 s apart are one run of talk; whether a gap of just 0.1 s is one, its rounding
    # in binary decides.
    joined = moments.copy()
    joined[:, 1:-1] |= moments[:, :-2] & moments[:, 2:]
    talk, most = moments.any(0).sum() / 10, joined.any(0).sum() / 10
    assert talk - 2e-3 <= call.talk_seconds <= most + 2e-3
    overlap, most = (moments.sum(0) > 1).sum() / 10, (joined.sum(0) > 1).sum() / 10
    assert overlap - 2e-3 <= call.overlap_seconds <= most + 2e-3
    assert call.talk_seconds + call.silence_seconds == pytest.approx(100.0)
    for row, who in enumerate("abc"):
        found = summarize(turns, 100.0, who, row)
        closed = moments[row].copy()
        closed[1:-1] |= moments[row, :-2] & moments[row, 2:]
        others = np.delete(moments, row, 0)
        assert found.talk_seconds == pytest.approx(moments[row].sum() / 10, abs=0.1 * len(parts))
        assert found.talk_seconds + (found.silence_seconds or 0) == pytest.approx(100.0)
        assert found.overlap_seconds is not None
        assert found.overlap_seconds <= found.talk_seconds + 1e-9
        assert found.overlap_seconds >= (moments[row] & others.any(0)).sum() / 10 - 2e-3
