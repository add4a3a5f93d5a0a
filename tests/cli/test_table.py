"""The call on a terminal: golden files of three widths, and what a row has to hold at any."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from conftest import CheckGolden
from report_samples import empty_report, sample_report
from rich.cells import cell_len
from rich.console import Console

from speechmeta.cli.table import CallTable, clock, summary_line
from speechmeta.schema import FIELDS, CallReport

GOLDEN = Path(__file__).parent / "golden"


def shown(report: CallReport, width: int, fields: tuple[str, ...] = FIELDS) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False)
    speakers = [turn.speaker for turn in report.turns]
    table = CallTable(width, fields, speakers, report.audio.duration)
    table.begin(report.audio, report.model.name, console)
    table.rows(report.turns, console)
    table.summary(report, console)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_golden(width: int, check_golden: CheckGolden) -> None:
    check_golden(GOLDEN / f"table-{width}.txt", shown(sample_report(), width))


@pytest.mark.parametrize("width", range(30, 221, 10))
def test_every_word_is_there_at_every_width(width: int) -> None:
    text = shown(sample_report(), width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    # Narrower, words themselves are broken.
    if width >= 50:
        for turn in sample_report().turns:
            assert set((turn.meta.transcript or "").split()) <= {*text.split(), "-->"}
        for word in ("Frustrated", "Senior", "transcript_truncated"):
            assert word in text


def test_fields_that_are_not_asked_for_are_not_there() -> None:
    for width in (80, 200):
        text = shown(sample_report(), width, ("Emotion",))
        assert "Frustrated" in text
        assert "good morning" not in text
        assert "Male" not in text


def test_a_call_without_speech() -> None:
    assert shown(empty_report(), 80).splitlines()[-1] == "no speech was found"


def test_escape_sequences_are_shown() -> None:
    report = sample_report("a\x1b[2J.wav")
    report.turns[0] = report.turns[0].model_copy(update={"speaker": "ag\x1b]0;x\x07ent"})
    text = shown(report, 80)
    assert "\x1b" not in text
    assert "\\x1b[2J" in text


def test_summary() -> None:
    assert summary_line(sample_report()) == (
        "talk: agent 49%, customer 51%; 1 interruption; "
        "emotion: Neutral 31%, Anger 23%, Frustrated 18%, Sad 17%, Happy 11%"
    )


@pytest.mark.parametrize(
    ("seconds", "decimals", "text"),
    [(0, 0, "0:00"), (59.96, 1, "1:00.0"), (3599.99, 0, "1:00:00"), (3725.25, 1, "1:02:05.2")],
)
def test_clock(seconds: float, decimals: int, text: str) -> None:
    assert clock(seconds, decimals) == text
