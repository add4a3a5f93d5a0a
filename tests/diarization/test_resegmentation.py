"""Frames, what windows say of them, and the path through them."""

from __future__ import annotations

import numpy as np
import pytest

from speechmeta.diarization.resegmentation import (
    best_path,
    change_costs,
    ease_short_runs,
    evidence,
    frames_of,
    segments_of,
    short_runs,
)
from speechmeta.segmentation.turns import Speech

RATE = 8000
HOP = 64


def test_frames_cover_the_runs() -> None:
    frames = frames_of([Speech(800, 8800), Speech(9000, 9010)], RATE)
    assert frames.starts[0] == 800
    assert frames.ends[-1] == 9010
    assert list(frames.runs[-2:]) == [0, 1]
    assert (frames.ends - frames.starts).max() <= 0.09 * RATE
    assert list(frames.pauses()[-2:]) == [0, 200]
    assert len(frames_of([], RATE).starts) == 0


def test_near_windows_count_most() -> None:
    frames = frames_of([Speech(0, 4 * RATE)], RATE)
    windows = np.array([[0, 2 * RATE], [2 * RATE, 4 * RATE]])
    worth = evidence(frames, [(windows, np.eye(2), 1.0)])
    assert list(worth.argmax(1)) == [0] * 25 + [1] * 25
    wide = np.array([[0, 4 * RATE]])
    both = evidence(frames, [(windows, np.eye(2), 1.0), (wide, np.array([[0.0, 1.0]]), 0.5)])
    assert both[5, 0] > both[5, 1]
    assert both[20, 1] > worth[20, 1]


def test_single_doubts_are_taken_out() -> None:
    likeness = np.array([[0.9, 0.1]] * 4 + [[0.5, 0.55]] + [[0.9, 0.1]] * 3 + [[0.1, 0.9]] * 4)
    assert list(best_path(likeness, np.full(12, 0.15))) == [0] * 8 + [1] * 4
    assert list(best_path(likeness, np.zeros(12)))[4] == 1


def test_changes_are_cheap_in_pauses_and_where_it_is_quiet() -> None:
    levels = np.full(4 * RATE // HOP, 1.0, np.float32)
    levels[round(1.04 * RATE / HOP) + np.arange(-4, 4)] = 1e-5
    frames = frames_of([Speech(0, 2 * RATE), Speech(3 * RATE, 4 * RATE)], RATE)
    costs = change_costs(frames, levels, HOP, RATE, 0.2, 0.1, 0.5)
    quiet = int(np.argmin(np.abs(frames.starts - round(1.04 * RATE))))
    pause = int(np.flatnonzero(frames.pauses())[0])
    assert costs[quiet] == pytest.approx(0.06, abs=0.01)
    assert costs[quiet + 6] == pytest.approx(0.2, abs=0.01)
    assert costs[pause] == pytest.approx(0.1 * np.exp(-2), abs=1e-3)


def test_segments_end_with_the_speaker_and_with_the_run() -> None:
    frames = frames_of([Speech(0, 2 * RATE), Speech(3 * RATE, 4 * RATE)], RATE)
    levels = np.full(4 * RATE // HOP, 1.0, np.float32)
    levels[round(1.1 * RATE / HOP) + np.arange(-4, 4)] = 1e-5
    path = np.where(frames.starts < RATE, 0, 1)
    found = segments_of(frames, path, levels, HOP, RATE)
    assert [part.speaker for part in found] == [0, 1, 1]
    assert (found[0].start, found[1].end, found[2].end) == (0, 2 * RATE, 4 * RATE)
    assert found[0].end == found[1].start
    assert found[0].end / RATE == pytest.approx(1.1, abs=0.04)


def test_a_change_that_is_likely_is_taken_but_nobody_changes_to_himself() -> None:
    likeness = np.tile([[0.5, 0.48]], (6, 1))
    costs = np.full(6, 0.3)
    costs[[2, 4]] = -0.1
    assert list(best_path(likeness, costs)) == [0, 0, 1, 1, 0, 0]
    assert list(best_path(likeness[:, :1], costs)) == [0] * 6


def test_short_runs_that_stand_alone_are_eased() -> None:
    seconds = [(0.0, 3.0), (3.2, 3.7), (3.9, 6.0), (6.2, 6.6), (9.0, 12.0)]
    runs = [Speech(round(a * RATE), round(b * RATE)) for a, b in seconds]
    frames = frames_of(runs, RATE)
    eased = ease_short_runs(frames, np.ones(len(frames.runs)), RATE, 1.1, 1.0, 0.4)
    # The second short one is followed by a long pause.
    assert set(frames.runs[eased < 1]) == {1, 2}
    assert (eased < 1).sum() == 2
    assert set(frames.runs[short_runs(frames, RATE, 1.1)]) == {1, 3}
    assert len(short_runs(frames, RATE, 1.1)) == len(frames.runs)
    assert not short_runs(frames_of([], RATE), RATE, 1.1).size
