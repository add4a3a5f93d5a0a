"""Loud sound that the speech detector leaves out: what is speech of it becomes a turn."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine
from sounds import no_speech
from voices import SENTENCES, speak, telephone

from speechmeta.audio.loading import load_audio, resample
from speechmeta.batch.calls import CallModel, JudgeRequest
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions
from speechmeta.pipeline.plan import CallPlan, prepare_call
from speechmeta.pipeline.second_look import SPEECH_FROM
from speechmeta.segmentation.left_out import carried_by_another, loud_stretches
from speechmeta.segmentation.turns import Speech, TurnOptions

pytestmark = pytest.mark.slow

RATE = 8000
SHOUT = "No, it works! Oh my goodness, it really works now!"


class Listening(FakeEngine):
    """Takes everything for speech that is as probable as it is told; keeps what it was shown."""

    judges_speech = True

    def __init__(self, probability: float | None = 1.0) -> None:
        super().__init__()
        self.probability = probability
        self.shown: list[float] = []

    def speech_probabilities(self, waveforms: Sequence[np.ndarray]) -> list[float | None]:
        self.shown += [len(wave) / 16000 for wave in waveforms]
        return [self.probability for _ in waveforms]


def quiet(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 3e-4, round(seconds * rate))
    return np.asarray(noise, np.float32)


def tone(seconds: float = 1.0) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return np.asarray(0.3 * np.sin(2 * np.pi * 440 * time), np.float32)


def placed(parts: Sequence[np.ndarray], rate: int = RATE, pause: float = 1.5) -> np.ndarray:
    """The parts one after the other with almost silent pauses, also at both ends."""
    pieces = [quiet(pause, 0, rate)]
    for number, part in enumerate(parts):
        pieces += [part, quiet(pause, number + 1, rate)]
    return np.concatenate(pieces)


def said(folder: Path, *voice: str) -> np.ndarray:
    """The shout by espeak-ng, at 16 kHz."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    path = folder / "voice.wav"
    subprocess.run(["espeak-ng", "-w", str(path), *voice, SHOUT], check=True)
    wave = load_audio(path).resampled(16000)[0]
    return np.asarray(0.5 * wave / np.abs(wave).max(), np.float32)


def high_and_fast(folder: Path) -> np.ndarray:
    """A high voice, played 1.75 times as fast, at 16 kHz."""
    return resample(said(folder, "-p", "99", "-s", "200", "-v", "en-us+f5"), 28000, 16000)


def breathless(folder: Path) -> np.ndarray:
    """Quick and without a pitch, over a telephone, at 8 kHz."""
    voice = said(folder, "-p", "90", "-s", "300", "-v", "en+whisper")
    return resample(telephone(voice, 16000), 16000, RATE)


def spans(plan: CallPlan) -> list[tuple[float, float]]:
    return [(turn.start / plan.rate, turn.end / plan.rate) for turn in plan.turns]


def planned(wave: np.ndarray, analyzer: Analyzer, rate: int = RATE, **options: Any) -> CallPlan:
    chosen = CallOptions(**options)
    return prepare_call((wave, rate), chosen, judge=analyzer.speech_judge).plan


@pytest.mark.parametrize("kind", ["breathless", "high"])
def test_speech_that_the_detector_leaves_out(
    kind: str, bundled_analyzer: Analyzer, tmp_path: Path
) -> None:
    rate = RATE if kind == "breathless" else 16000
    shout = breathless(tmp_path) if kind == "breathless" else high_and_fast(tmp_path)
    ordinary = speak(SENTENCES[0], "slt", rate)
    wave = placed([ordinary, shout, ordinary], rate)
    start = 3.0 + len(ordinary) / rate
    end = start + len(shout) / rate

    def talk(found: Sequence[tuple[float, float]]) -> float:
        return sum(max(0.0, min(last, end) - max(first, start)) for first, last in found)

    before = prepare_call((wave, rate), CallOptions(speakers=1)).plan
    assert talk(spans(before)) < 0.5 * (end - start)
    after = planned(wave, bundled_analyzer, rate, speakers=1)
    assert talk(spans(after)) > 0.75 * (end - start)
    # Beside it nothing has changed.
    outside = [span for span in spans(before) if span[1] < start or span[0] > end]
    assert [span for span in spans(after) if span[1] < start or span[0] > end] == outside
    report = bundled_analyzer.analyze_call((wave, rate), speakers=1, fields=["Gender"])
    assert [(turn.start, turn.end) for turn in report.turns] == [
        pytest.approx(span, abs=0.001) for span in spans(after)
    ]
    coverage = report.coverage
    assert coverage.speech_seconds == pytest.approx(
        sum(last - first for first, last in spans(after)), abs=0.01
    )
    assert sum(coverage.model_dump().values()) == pytest.approx(report.audio.duration, abs=1e-5)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_what_is_no_speech_makes_no_turn(rate: int, bundled_analyzer: Analyzer) -> None:
    sounds = no_speech(rate)
    wave = placed(list(sounds.values()), rate, 0.8)
    ends = np.cumsum([0.8 + len(sound) / rate for sound in sounds.values()])
    plan = planned(wave, bundled_analyzer, rate)
    wrong = {list(sounds)[int(np.searchsorted(ends, end))] for _, end in spans(plan)}
    assert not wrong


def test_all_that_is_loud_is_shown_and_only_that() -> None:
    engine = Listening()
    wave = placed([speak(SENTENCES[0], "slt", RATE), tone(), 0.01 * tone()])
    report = Analyzer.from_engine(engine).analyze_call((wave, RATE), speakers=1)
    assert engine.shown == [pytest.approx(1.4, abs=0.1)]
    start = 3.0 + len(speak(SENTENCES[0], "slt", RATE)) / RATE
    assert (report.turns[-1].start, report.turns[-1].end) == pytest.approx(
        (start, start + 1.0), abs=0.1
    )
    assert len(report.turns) == 2
    assert report.warnings == []


def test_what_the_head_doubts_is_no_turn() -> None:
    engine = Listening(SPEECH_FROM - 0.01)
    report = Analyzer.from_engine(engine).analyze_call((placed([tone()]), RATE))
    assert engine.shown
    assert report.turns == []
    assert report.coverage.non_speech_seconds == pytest.approx(4.0, abs=0.01)


def test_what_could_not_be_judged_is_told() -> None:
    report = Analyzer.from_engine(Listening(None)).analyze_call((placed([tone()]), RATE))
    assert report.turns == []
    assert any("could not be judged" in text for text in report.warnings)


def test_a_model_without_the_head_is_told() -> None:
    wave = placed([tone(1.5)])
    report = Analyzer.from_engine(FakeEngine()).analyze_call((wave, RATE))
    assert report.turns == []
    assert any("no SpeechActivity head" in text for text in report.warnings)


def test_it_can_be_left_out() -> None:
    engine = Listening()
    analyzer = Analyzer.from_engine(engine)
    report = analyzer.analyze_call((placed([tone()]), RATE), turns=TurnOptions(second_look=False))
    assert report.turns == []
    assert not engine.shown


def test_a_leak_of_it_makes_no_turn() -> None:
    random = np.random.default_rng(3)
    burst = random.standard_normal(RATE).astype(np.float32)
    loud = placed([0.1 * burst])
    leak = quiet(len(loud) / RATE, 9)[: len(loud)]
    leak[400:] += 0.2 * loud[:-400]
    plan = planned(np.stack([leak, loud]), Analyzer.from_engine(Listening()), channels="split")
    assert {turn.row for turn in plan.turns} == {1}


def test_a_folder_run_asks_too() -> None:
    model = CallModel(Analyzer.from_engine(Listening(0.95)), CallOptions())
    assert model.answer(JudgeRequest()) is True
    assert model.answer(JudgeRequest((np.zeros(1600, np.float32),))) == [0.95]
    assert CallModel(Analyzer.from_engine(FakeEngine()), CallOptions()).answer(
        JudgeRequest()
    ) is False  # fmt: skip


def test_stretches_stand_out_from_noise_and_are_cut() -> None:
    levels = np.full(4000, 1e-6, np.float32)
    levels[400:1600] = 1e-2  # 9.6 s
    levels[2000:2010] = 1e-2  # 80 ms
    levels[3000:3200] = 1e-2
    size = {"rate": 8000, "hop": 64, "samples": 256000}
    found = loud_stretches(levels, [Speech(3000 * 64, 3200 * 64)], **size)
    assert (found[0].start, found[-1].end) == (400 * 64, 1600 * 64)
    assert all(part.samples <= 3 * 8000 for part in found)
    assert [part.start for part in found[1:]] == [part.end for part in found[:-1]]
    steady = np.full(4000, 1e-2, np.float32)
    assert loud_stretches(steady, [], **size) == []
    assert loud_stretches(np.zeros(4000, np.float32), [], **size) == []


def test_whose_a_sound_is() -> None:
    random = np.random.default_rng(0)
    own, other = random.standard_normal((2, 3 * RATE)).astype(np.float32)
    late = np.concatenate([np.zeros(800, np.float32), own[:-800]])
    begin, end = RATE, 2 * RATE
    assert carried_by_another(np.stack([own, 0.3 * late]), 1, begin, end, RATE)
    assert not carried_by_another(np.stack([own, 0.3 * late]), 0, begin, end, RATE)
    assert not carried_by_another(np.stack([own, 0.3 * other]), 1, begin, end, RATE)
    # Of two that are alike the first has it.
    assert carried_by_another(np.stack([own, own]), 1, begin, end, RATE)
    assert not carried_by_another(np.stack([own, own]), 0, begin, end, RATE)
