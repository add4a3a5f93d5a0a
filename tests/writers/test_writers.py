"""Writers: golden files per format, escaping, and files that appear whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from report_samples import NASTY, empty_report, sample_peaks, sample_report, turn

from speechmeta.audio.peaks import PeakMeter
from speechmeta.errors import OutputError, UsageError
from speechmeta.schema import CallReport, FilledForm, PartFailure, SpeakerMeta
from speechmeta.writers import WRITERS, HtmlWriter, TextWriter, get_writer
from speechmeta.writers.files import atomic_file, printable, remove_temporary
from speechmeta.writers.html_index import index_page, sparkline
from speechmeta.writers.html_view import clock, conversation_view, emotions_of, letters_of
from speechmeta.writers.parquet import turn_schema, write_calls, write_speakers, write_turns
from speechmeta.writers.structured import document
from speechmeta.writers.subtitles import timestamp
from speechmeta.writers.tabular import COLUMNS, rows

GOLDEN = Path(__file__).parent / "golden"
TEXT_FORMATS = ["json", "jsonl", "csv", "tsv", "srt", "vtt", "txt"]
EXCEL = ["csv-excel", "csv-excel-semicolon"]


def check_golden(name: str, text: str) -> None:
    """Compares with a committed file; SPEECHMETA_UPDATE_GOLDEN=1 writes it anew."""
    path = GOLDEN / name
    if os.environ.get("SPEECHMETA_UPDATE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8", newline="\n")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TEXT_FORMATS)
def test_every_text_format_equals_its_golden_file(name: str, tmp_path: Path) -> None:
    target = tmp_path / f"call.{name}"
    get_writer(name).write(sample_report(), target)
    check_golden(f"call.{name}", target.read_bytes().decode("utf-8"))


@pytest.mark.parametrize("name", TEXT_FORMATS)
def test_golden_of_a_call_without_speech(name: str, tmp_path: Path) -> None:
    target = tmp_path / f"empty.{name}"
    get_writer(name).write(empty_report(), target)
    check_golden(f"empty.{name}", target.read_bytes().decode("utf-8"))


def test_the_page_equals_its_golden_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechmeta.writers.html.__version__", "0.0.0")
    report = sample_report()
    check_golden("call.html", HtmlWriter().page(report, sample_peaks(report, bins=80)))
    check_golden("empty.html", HtmlWriter().page(empty_report()))


def test_the_table_equals_its_golden_file(tmp_path: Path) -> None:
    target = tmp_path / "call.parquet"
    get_writer("parquet").write(sample_report(), target)
    table = pq.read_table(target)
    columns = {field.name: str(field.type) for field in table.schema}
    rest = json.loads(table.schema.metadata[b"speechmeta"])
    shown = {"columns": columns, "rows": table.to_pylist(), "metadata": rest}
    check_golden("call.parquet.json", json.dumps(shown, indent=1, ensure_ascii=False) + "\n")


def test_json_is_the_report() -> None:
    writer = get_writer("json")
    assert isinstance(writer, TextWriter)
    assert CallReport.model_validate_json(writer.text(sample_report())) == sample_report()


def test_csv_reads_back() -> None:
    writer = get_writer("csv")
    assert isinstance(writer, TextWriter)
    found = list(csv.DictReader(io.StringIO(writer.text(sample_report()), newline="")))
    assert list(found[0]) == list(COLUMNS)
    assert found[5]["Transcript"] == NASTY
    assert [row["SpeechActivity"] for row in found].count("false") == 1


def test_tsv_keeps_one_line_a_turn() -> None:
    writer = get_writer("tsv")
    assert isinstance(writer, TextWriter)
    lines = writer.text(sample_report()).splitlines()
    assert len(lines) == 9
    assert {line.count("\t") for line in lines} == {len(COLUMNS) - 1}


def test_labels_stand_in_for_a_transcript_that_was_not_asked_for() -> None:
    report = empty_report()
    said = SpeakerMeta.model_validate({"Gender": "Female", "Emotion": "Sad"})
    report = report.model_copy(update={"turns": [turn(0.0, 1.0, 0, "a", said)]})
    writer = get_writer("txt")
    assert isinstance(writer, TextWriter)
    assert writer.text(report) == "[00:00:00.000 - 00:00:01.000] a: [Female, Sad]\n"


def test_infinite_loudness_is_null_in_json() -> None:
    report = sample_report()
    report.turns[0].loudness_db = float("-inf")
    assert document(report)["turns"][0].get("loudness_db") is None


def test_labels_of_another_label_set() -> None:
    said = SpeakerMeta.model_validate(
        {"Emotion": "Surprise"}, context={"label_sets": {"Emotion": ["Surprise"]}}
    )
    report = empty_report().model_copy(update={"turns": [turn(0.0, 1.0, 0, "a", said)]})
    page = HtmlWriter().page(report)
    assert page.count("Surprise") >= 3
    assert rows(document(report))[0]["Emotion"] == "Surprise"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "00:00:00.000"),
        (59.9996, "00:01:00.000"),
        (7200.5, "02:00:00.500"),
        (-1, "00:00:00.000"),
    ],
)
def test_timestamps_follow_the_subtitle_formats(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text


def test_the_clock_shows_hours_only_where_there_are_some() -> None:
    assert [clock(59.96, 1), clock(59.96), clock(3600), clock(5.04, 1)] == [
        "1:00.0",
        "1:00",
        "1:00:00",
        "0:05.0",
    ]


def test_html_escapes_and_forbids_requests() -> None:
    page = HtmlWriter().page(sample_report())
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert "default-src 'none'" in page.replace("&#39;", "'")
    for address in ("http://", "https://", "src=", "@import", "url("):
        assert address not in page


def test_html_shows_measures_that_it_does_not_know() -> None:
    report = sample_report()
    data = document(report)
    data["conversation"]["applause_seconds"] = {"agent": 7.5}
    facts = conversation_view(data, emotions_of(data))["facts"]
    assert ("Applause agent", "7.5 s") in facts


def test_emotions_have_letters_of_their_own() -> None:
    names = ["Neutral", "Happy", "Sad", "Anger", "Frustrated", "Surprise", "Fear", "N"]
    letters = letters_of(names)
    assert len(set(letters.values())) == len(names)
    assert [letters[name] for name in names[:7]] == ["N", "H", "S", "A", "F", "Su", "Fe"]


def test_every_format_has_a_writer_and_no_other() -> None:
    assert sorted(WRITERS) == sorted([*TEXT_FORMATS, *EXCEL, "parquet", "html"])
    assert get_writer(".JSON") is WRITERS["json"]
    assert all(writer.extension == f".{name.split('-')[0]}" for name, writer in WRITERS.items())
    with pytest.raises(UsageError, match="unknown output format 'doc'"):
        get_writer("doc")


@pytest.mark.parametrize("name", list(WRITERS))
def test_nothing_is_overwritten_in_silence(name: str, tmp_path: Path) -> None:
    target = tmp_path / f"call.{name}"
    target.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        get_writer(name).write(sample_report(), target)
    assert target.read_text() == "mine"
    get_writer(name).write(sample_report(), target, overwrite=True)
    assert target.read_bytes() != b"mine"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "call.json"

    def write_while_it_appears() -> None:
        with atomic_file(target) as file:
            file.write(b"ours")
            target.write_text("theirs")

    with pytest.raises(OutputError, match="exists"):
        write_while_it_appears()
    assert target.read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    def write_half() -> None:
        with atomic_file(tmp_path / "x") as file:
            file.write(b"half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="create the folder first"):
        get_writer("json").write(sample_report(), tmp_path / "no" / "call.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a part of the output path is a file"):
        get_writer("json").write(sample_report(), tmp_path / "file" / "call.json")


def test_only_temporary_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".speechmeta-0123.tmp").write_text("half")
    (tmp_path / "a" / "kept.tmp").write_text("other")
    assert remove_temporary(tmp_path) == 1
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept.tmp"]


def test_bytes_that_are_not_utf_8_are_shown() -> None:
    assert printable(b"caf\xe9.wav") == "caf\\xe9.wav"
    assert printable("café.wav") == "café.wav"


def test_turns_of_many_documents(tmp_path: Path) -> None:
    documents = (document(sample_report(f"{number}.wav")) for number in range(3))
    with open(tmp_path / "turns.parquet", "wb") as file:
        assert write_turns(documents, file) == 24
    table = pq.read_table(tmp_path / "turns.parquet")
    assert table.schema.equals(turn_schema())
    assert table.num_rows == 24


def test_peaks_do_not_depend_on_the_blocks() -> None:
    rng = np.random.default_rng(0)
    wave = (rng.normal(size=(2, 8000 * 3)) * [[0.2], [0.05]]).astype(np.float32)
    whole, parts = PeakMeter(8000), PeakMeter(8000)
    whole.add(wave)
    for start in range(0, wave.shape[1], 37):
        parts.add(wave[:, start : start + 37])
    assert whole.peaks(50) == parts.peaks(50)
    peaks = whole.peaks(50)
    assert peaks.duration == 3.0
    assert max(peaks.channels[0]) == 100
    assert max(peaks.channels[1]) < 75
    assert PeakMeter(8000).peaks().channels == ()


def test_the_page_shows_call_fields_policy_and_what_failed() -> None:
    report = sample_report()
    report.call_fields = {
        "outcome": FilledForm(value={"reason": "<late>", "solved": True}, evidence={"reason": [2]})
    }
    report.failures = [PartFailure(part="transcript", message="no answer", turns=[1, 3])]
    page = HtmlWriter().page(report)
    assert "&lt;late&gt;" in page
    assert 'href="#row-2"' in page
    assert "no transcript of turns 1, 3: no answer" in page


def test_calls_and_speakers_as_tables(tmp_path: Path) -> None:
    documents = [document(sample_report("a.wav")), document(empty_report())]
    for name, write, count in (("calls", write_calls, 2), ("speakers", write_speakers, 2)):
        with open(tmp_path / name, "wb") as file:
            assert write(documents, file) == count
    calls = pq.read_table(tmp_path / "calls").to_pylist()
    assert [(row["path"], row["turns"], row["interruptions"]) for row in calls] == [
        ("a.wav", 8, 1),
        (None, 0, 0),
    ]
    assert calls[0]["talk_seconds"] == 35.25
    assert calls[0]["redactions"] is None
    agent, customer = pq.read_table(tmp_path / "speakers").to_pylist()
    assert (agent["path"], agent["speaker"], agent["Gender"]) == ("a.wav", "agent", "Female")
    assert (customer["Age"], customer["Age_confidence"]) == (None, 0.44)
    assert customer["Emotion"] == "Anger"
    assert dict(customer["Emotion_shares"])["Anger"] == 0.4


def test_the_index_links_to_calls_and_names_failures() -> None:
    failed = {"audio": {"path": "b.wav"}, "error": {"type": "X", "message": "<no>", "hint": "go"}}
    nasty = "x<script>.wav"
    page = index_page(
        [(nasty, "calls/x%3Cscript%3E.wav.html", document(sample_report())), ("b", "", failed)],
        "calls & more",
    )
    assert 'href="calls/x%3Cscript%3E.wav.html"' in page
    assert "x&lt;script&gt;.wav" in page
    assert page.count("<script>") == 1
    assert "&lt;no&gt;; go" in page
    assert "calls &amp; more" in page
    bars = sparkline(document(sample_report()))
    assert {bar["y"] == 12 for bar in bars} == {True, False}
    assert all(0 < bar["height"] <= 11 and 0 <= bar["x"] < 48 for bar in bars)
    assert index_page([], "none").count("<tr") == 0


def test_the_index_tells_no_alerts_from_no_rules() -> None:
    for alerts, shown in ((None, "-"), ([], "0")):
        report = sample_report().model_copy(update={"alerts": alerts})
        page = index_page([("a.wav", "", document(report))], "calls")
        assert f'<td data-label="Alerts">{shown}</td>' in page
