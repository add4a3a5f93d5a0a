"""One channel that several speakers share: what is asked, found and told."""

from __future__ import annotations

from fakes import FakeEngine
from voices import speak

from speechmeta.pipeline.analyzer import Analyzer


def test_more_speakers_than_there_can_be_are_told() -> None:
    short = speak("Hello, this is a test.", "slt", 8000)
    report = Analyzer.from_engine(FakeEngine()).analyze_call((short, 8000), speakers=9)
    assert report.turns
    assert any("9 speakers were asked for, but only" in text for text in report.warnings)
