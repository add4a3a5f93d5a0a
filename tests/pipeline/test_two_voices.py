"""Two voices at once on one channel: turns, measures, coverage; with a detector that knows."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeEngine
from voices import SENTENCES, speak

from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.schema import CallReport
from speechmeta.segmentation.turns import TurnOptions

pytestmark = pytest.mark.slow

RATE = 16000


class Knowing:
    """Hears two voices where a mark of 7.9 kHz is in the sound."""

    threshold = 0.5

    def probabilities(self, wave: np.ndarray) -> np.ndarray:
        frames = wave[: len(wave) // 640 * 640].reshape(-1, 640)
        spectrum = np.abs(np.fft.rfft(frames, axis=1))
        marked = spectrum[:, 312:320].max(axis=1) > 0.5
        return np.where(marked, 1.0, 0.0).astype(np.float32)


def marked(wave: np.ndarray, start: float, end: float) -> np.ndarray:
    first, last = round(start * RATE), round(end * RATE)
    wave = wave.copy()
    wave[first:last] += 0.01 * np.sin(2 * np.pi * 7900 * np.arange(last - first) / RATE)
    return wave.astype(np.float32)


def call() -> tuple[np.ndarray, list[float]]:
    """Four sentences of two voices without pauses, and the times at which they begin and end."""
    parts, edges, at = [np.zeros(RATE // 2, np.float32)], [], 0.5
    for text, voice in zip(SENTENCES[:4], ("slt", "rms", "slt", "rms"), strict=True):
        spoken = speak(text, voice, RATE)
        edges += [at, at + len(spoken) / RATE]
        parts.append(spoken)
        at = edges[-1]
    return np.concatenate([*parts, np.zeros(RATE // 2, np.float32)]), edges


def report_of(
    wave: np.ndarray, monkeypatch: pytest.MonkeyPatch, overlap: bool = True
) -> CallReport:
    monkeypatch.setattr("speechmeta.diarization.overlap.packaged_detector", Knowing)
    return Analyzer.from_engine(FakeEngine()).analyze_call(
        (wave, RATE), speakers=2, turns=TurnOptions(overlap=overlap)
    )


def test_turns_that_meet_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    wave, edges = call()
    plain = report_of(wave, monkeypatch)
    assert len(plain.turns) == 4
    assert plain.conversation.overlap_seconds == 0
    assert not any(turn.overlapped for turn in plain.turns)
    middle = edges[3]
    report = report_of(marked(wave, middle - 0.4, middle + 0.3), monkeypatch)
    assert [turn.speaker for turn in report.turns] == [turn.speaker for turn in plain.turns]
    assert [turn.overlapped for turn in report.turns] == [None, True, True, None]
    assert report.turns[1].end == pytest.approx(middle + 0.3, abs=0.1)
    assert report.turns[2].start == pytest.approx(middle - 0.4, abs=0.1)
    # The clips are the same, and nothing is covered twice.
    assert [turn.meta for turn in report.turns] == [turn.meta for turn in plain.turns]
    assert report.coverage == plain.coverage
    assert report.conversation.overlap_seconds == pytest.approx(0.7, abs=0.15)
    total = report.conversation.overlap_seconds
    assert [item.overlap_seconds for item in report.speakers] == [total, total]
    written = report.model_dump(mode="json")
    assert written["turns"][1]["overlapped"] is True
    assert "overlapped" not in written["turns"][0]
    assert CallReport.model_validate(written).turns[1].overlapped is True


def test_within_a_turn_it_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    wave, edges = call()
    report = report_of(marked(wave, edges[2] + 0.8, edges[2] + 1.4), monkeypatch)
    assert not any(turn.overlapped for turn in report.turns)


def test_it_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    wave, edges = call()
    heard = marked(wave, edges[3] - 0.4, edges[3] + 0.3)
    report = report_of(heard, monkeypatch, overlap=False)
    assert not any(turn.overlapped for turn in report.turns)


def test_parties_on_channels_of_their_own_overlap_too() -> None:
    one, other = speak(SENTENCES[0], "slt", RATE), speak(SENTENCES[1], "rms", RATE)
    rows = np.zeros((2, 8 * RATE), np.float32)
    rows[0, RATE : RATE + len(one)] = one
    late = RATE + len(one) - RATE // 2
    rows[1, late : late + len(other)] = other
    report = Analyzer.from_engine(FakeEngine()).analyze_call((rows, RATE))
    assert [turn.overlapped for turn in report.turns] == [True, True]
