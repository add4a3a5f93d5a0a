"""Turns as they end, by `for` and by `async for`; progress; one model for all who ask."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from audio_files import Sine
from fakes import FakeEngine
from voices import make_call

from speechmeta.errors import AudioError, UsageError
from speechmeta.pipeline import analyzer as home
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.progress import CallProgress


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def analyzer(engine: Any) -> Analyzer:
    return Analyzer.from_engine(engine)


@pytest.fixture
def call() -> Any:
    made = make_call(turns=12)
    return made.waveform, made.rate


def test_turns_are_those_of_the_report_in_its_order(analyzer: Analyzer, call: Any) -> None:
    stream = analyzer.stream(call, roles=["agent", "customer"])
    turns = list(stream)
    assert len(turns) > 8, "one group alone says nothing"
    assert turns == stream.report.turns
    assert stream.report == analyzer.analyze_call(call, roles=["agent", "customer"])
    assert list(stream) == []


def test_the_first_turn_comes_before_the_last_is_decoded(
    analyzer: Analyzer, engine: FakeEngine, call: Any
) -> None:
    stream = analyzer.stream(call)
    assert engine.calls == [], "nothing is read before the first turn is asked for"
    next(stream)
    first = sum(len(lengths) for lengths, _, _ in engine.calls)
    stream.close()
    with pytest.raises(RuntimeError, match="closed"):
        _ = stream.report
    assert first == 8
    assert sum(len(lengths) for lengths, _, _ in engine.calls) == first, "closing ends the work"


def test_async_for_gives_the_same_and_leaves_the_loop_free(analyzer: Analyzer, call: Any) -> None:
    async def go() -> tuple[list[Any], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        turns = [turn async for turn in analyzer.stream(call)]
        ticking.cancel()
        return turns, ticks

    turns, ticks = asyncio.run(go())
    assert turns == analyzer.analyze_call(call).turns
    assert ticks > 2


def test_what_is_private_comes_when_all_is_known(analyzer: Analyzer, call: Any) -> None:
    stream = analyzer.stream(call, redact=True)
    steps = list(stream._steps)
    assert [len(step.turns) for step in steps[:-1]] == [0] * (len(steps) - 1)
    assert list(steps[-1].turns) == analyzer.analyze_call(call, redact=True).turns


def test_progress_grows_to_the_end(analyzer: Analyzer, call: Any) -> None:
    seen: list[CallProgress] = []
    report = analyzer.analyze_call(call, on_progress=seen.append)
    shares = [moment.share for moment in seen]
    assert shares == sorted(shares)
    assert shares[0] < 0.05
    assert shares[-1] == pytest.approx(1.0)
    assert {moment.stage for moment in seen} == {"reading", "listening", "turns"}
    assert seen[0].duration == pytest.approx(report.audio.duration)
    assert (seen[-1].turns_done, seen[-1].turns) == (len(report.turns), len(report.turns))


def test_a_recording_that_cannot_be_read(analyzer: Analyzer, tmp_path: Path) -> None:
    stream = analyzer.stream(tmp_path / "absent.wav")
    with pytest.raises(AudioError, match="does not exist"):
        next(stream)
    with pytest.raises(UsageError, match="no option"):
        analyzer.stream("a.wav", rolls=["x"])  # type: ignore[call-arg]


def test_analyzers_with_the_same_options_share_their_model(
    monkeypatch: pytest.MonkeyPatch, sine: Sine, tmp_path: Path
) -> None:
    made: list[FakeEngine] = []

    def load(**options: Any) -> FakeEngine:
        made.append(FakeEngine())
        return made[-1]

    monkeypatch.setattr(home, "load_speech_model", load)
    monkeypatch.setattr(home, "_KEPT", [])
    first, second = Analyzer(batch_size=3), Analyzer(batch_size=3)
    assert first.engine is second.engine
    assert Analyzer(batch_size=4).engine is not first.engine
    home.generate_meta((sine(1, 8000), 8000), batch_size=3)
    assert len(made) == 2
    checkpoint = tmp_path / "run"
    checkpoint.mkdir()
    before = Analyzer(checkpoint)
    (checkpoint / "model.safetensors").write_bytes(b"new")
    assert Analyzer(checkpoint).engine is not before.engine, "it was trained anew meanwhile"
