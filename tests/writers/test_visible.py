"""What recordings, names and roles hold is shown, and never becomes a command or a formula."""

from __future__ import annotations

import csv
import io
import json

import pytest
from report_samples import sample_report

from speechmeta.schema import CallReport
from speechmeta.visible import safe_cell, visible, visible_json, visible_line
from speechmeta.writers import WRITERS, get_writer
from speechmeta.writers.base import TextWriter

ESCAPES = "\x1b[31mred\x1b]0;title\x07 \x9b2J \u202egnp.exe\u2066 \x7f"
TEXT_FORMATS = [name for name, writer in WRITERS.items() if isinstance(writer, TextWriter)]


def hostile(text: str, said: str | None = None) -> CallReport:
    report = sample_report().model_copy(deep=True)
    report.audio.path = f"/calls/{text}.wav"
    for turn in report.turns:
        turn.speaker = text
        turn.words = None
        if turn.meta.transcript:
            turn.meta = turn.meta.model_copy(update={"transcript": said or text})
    return report


def written(name: str, report: CallReport) -> str:
    writer = get_writer(name)
    assert isinstance(writer, TextWriter)
    return writer.text(report)


@pytest.mark.parametrize("name", TEXT_FORMATS)
def test_no_text_output_sends_an_escape_sequence(name: str) -> None:
    text = written(name, hostile(ESCAPES))
    assert not set(text) & set("\x1b\x07\x9b\x7f\u202e\u2066")
    text.encode("utf-8")


@pytest.mark.parametrize("name", ["json", "jsonl"])
def test_json_says_the_same_with_escapes(name: str) -> None:
    data = json.loads(written(name, hostile(ESCAPES)))
    assert data["turns"][0]["speaker"] == ESCAPES


@pytest.mark.parametrize("name", TEXT_FORMATS)
def test_names_that_are_no_unicode_are_written(name: str) -> None:
    written(name, hostile("Zo\udceb", "said")).encode("utf-8")


@pytest.mark.parametrize(
    "start", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1"]
)
@pytest.mark.parametrize("name", ["csv", "csv-excel", "csv-excel-semicolon", "tsv"])
def test_no_cell_is_a_formula(name: str, start: str) -> None:
    report = hostile(start)
    report.audio.path = start
    separator = {"tsv": "\t", "csv-excel-semicolon": ";"}.get(name, ",")
    text = written(name, report).removeprefix("\ufeff")
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator))
    assert rows
    for row in rows:
        for column in ("path", "speaker", "Transcript"):
            assert not row[column] or row[column][0] in "'\\", row[column]


def test_numbers_stay_numbers_and_text_stays_text() -> None:
    assert safe_cell("it was -3 degrees") == "it was -3 degrees"
    assert safe_cell("-3 degrees") == "'-3 degrees"
    loudness = [
        row["loudness_db"]
        for row in csv.DictReader(io.StringIO(written("csv", sample_report())))
        if row["loudness_db"]
    ]
    assert loudness
    assert all(float(value) < 0 for value in loudness)


def test_excel_sees_utf_8_its_line_ends_and_its_separator() -> None:
    comma, semicolon = (
        written("csv-excel", sample_report()),
        written("csv-excel-semicolon", sample_report()),
    )
    for text in (comma, semicolon):
        assert text.startswith("\ufeffpath")
        assert text.count("\r\n") == len(sample_report().turns) + 1
    row = semicolon.split("\r\n")[1].split(";")
    assert "," in row[2]
    assert get_writer("csv-excel").extension == ".csv"


def test_marks_are_readable() -> None:
    assert visible("a\x1b[2J\u202eb\tc\n") == "a\\x1b[2J\\u202eb\tc\n"
    assert visible_line("a\nb\udcff") == "a\\nb\\xff"
    assert visible("Zoë звонок 你好 👍🏽 é") == "Zoë звонок 你好 👍🏽 é"
    assert json.loads(visible_json(json.dumps("\U000e0041\x85", ensure_ascii=False))) == (
        "\U000e0041\x85"
    )
