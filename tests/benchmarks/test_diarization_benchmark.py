"""The calls that diarization is measured on, and what is counted of them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RATE = 16000


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    yield importlib.import_module("mono_calls")
    for name in ("mono_calls", "diarization"):
        sys.modules.pop(name, None)


def tone(seconds: float, hertz: float) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return np.sin(2 * np.pi * hertz * time).astype(np.float32)


def test_speech_is_found_by_level_and_short_pauses_belong_to_it(home: Any) -> None:
    wave = np.concatenate(
        [np.zeros(4800), tone(0.5, 200), np.zeros(3200), tone(0.5, 200), np.zeros(8000),
         tone(0.4, 200), np.zeros(100)]
    )  # fmt: skip
    runs = [(start / RATE, end / RATE) for start, end in home.speech_of(wave)]
    assert runs == [pytest.approx((0.3, 1.5), abs=0.03), pytest.approx((2.0, 2.4), abs=0.03)]
    assert len(home.trimmed(wave)) == pytest.approx(2.1 * RATE, abs=800)
    assert len(home.trimmed(np.zeros(3200))) == 0


def test_calls_say_who_talks_when(home: Any) -> None:
    random = np.random.default_rng(3)
    speakers = [home.pieces_of([tone(30, hertz)], random, (1.0, 4.0)) for hertz in (200, 900)]
    call = home.mix(speakers, random, 40.0, overlap=0.5, backchannels=0.9)
    assert {who for *_, who in call.truth} == {0, 1}
    assert call.truth == sorted(call.truth)
    assert len(call.waveform) / RATE == pytest.approx(call.truth[-1][1] + 0.5, abs=2.0)
    both = 0
    for start, end, who in call.truth:
        part = call.waveform[round(start * RATE) : round(end * RATE)]
        spectrum = np.abs(np.fft.rfft(part))
        share = spectrum[round((200, 900)[who] * len(part) / RATE) + np.arange(-2, 3)].sum()
        other = spectrum[round((900, 200)[who] * len(part) / RATE) + np.arange(-2, 3)].sum()
        both += other > 0.05 * share
        assert share > 0
    assert both, "some overlap"
    assert any(over for *_, over in call.backchannels)
    assert any(not over for *_, over in call.backchannels)
    for start, end, _, _ in call.backchannels:
        assert 0.29 <= end - start <= 1.01


def test_backchannels_under_their_speaker_are_counted(home: Any) -> None:
    measure = importlib.import_module("diarization")
    truth = [(0.0, 4.0, 0), (4.2, 4.7, 1), (5.0, 8.0, 0), (6.0, 6.5, 1), (9.0, 12.0, 1)]
    call = home.MonoCall(np.zeros(13 * RATE, np.float32), truth)
    call.backchannels = [(4.2, 4.7, 1, False), (6.0, 6.5, 1, True)]
    answer = [(0.0, 4.0, "a"), (4.2, 4.7, "b"), (5.0, 8.0, "a"), (9.0, 12.0, "b")]
    assert measure.backchannels_right(call, answer) == [(False, True), (True, False)]


def test_long_calls_are_made_of_those_who_have_enough(home: Any, tmp_path: Path) -> None:
    import soundfile

    from speechmeta.training.manifest import Clip

    measure = importlib.import_module("diarization")
    clips = []
    for number, (speaker, hertz, seconds) in enumerate(
        [
            ("low", 200, 30),
            ("low", 210, 30),
            ("high", 900, 30),
            ("high", 950, 30),
            ("rare", 500, 12),
        ]
    ):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, 0.1 * tone(seconds, hertz), RATE)
        clips.append(Clip(path, seconds, "made", speaker, True, None, {}))
    [(call, heads)] = measure.make_calls(clips, 1, 0, seconds=120.0, counts=(2,))
    assert {clip.speaker for clip in heads} == {"low", "high"}
    # Nothing is said twice: a call ends when there is nothing left.
    assert 60 < sum(end - start for start, end, _ in call.truth) < 121
    everybody = {
        clip.speaker
        for seed in range(6)
        for _, heads in measure.make_calls(clips, 1, seed, seconds=20.0, counts=(2,))
        for clip in heads
    }
    assert "rare" in everybody
