"""A report in Python: data frames, what a notebook shows, a drawing, files by their ending."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from report_samples import LONG, NASTY, empty_report, sample_report

from speechmeta.errors import OutputError, UsageError
from speechmeta.schema import CallReport


def test_tables() -> None:
    pytest.importorskip("pandas")
    report = sample_report()
    turns, words, speakers = report.to_pandas()
    assert list(turns["Transcript"]) == [turn.meta.transcript for turn in report.turns]
    assert "words" not in turns
    assert turns["SpeechActivity"].sum() == 7
    assert list(words["word"]) == LONG.split()
    assert set(words["turn"]) == {2}
    assert list(speakers["speaker"]) == ["agent", "customer"]
    empty = empty_report().to_pandas()
    assert [len(table) for table in empty] == [0, 0, 0]
    assert list(empty.words) == list(words)


def test_nothing_of_pandas_is_imported_before() -> None:
    code = "import sys, speechmeta.writers.notebook; print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_repr_is_one_short_line() -> None:
    report = sample_report("calls/a\x1b[2J\n.wav")
    assert (
        repr(report)
        == str(report)
        == ("CallReport('a\\\\x1b[2J\\\\n.wav', 0:40, 8 turns, 2 speakers)")
    )
    assert repr(empty_report()) == "CallReport('', 0:03, 0 turns, 0 speakers)"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_notebook_shows_a_summary_in_which_all_text_is_text() -> None:
    report = sample_report("<img src=x>.wav")
    report.turns[0] = report.turns[0].model_copy(update={"speaker": "<script>x</script>"})
    found = Tags()
    found.feed(report._repr_html_())
    assert not {"script", "img"} & set(found.seen)
    assert "<img src=x>.wav" in found.text
    assert "good morning how can i help you" in found.text
    assert len(report._repr_html_()) < 12_000
    long = report.model_copy(update={"turns": report.turns * 40})
    assert "and 312 more turns" in long._repr_html_()


def test_drawing(tmp_path: Path) -> None:
    drawing = sample_report().plot()
    tree = ElementTree.fromstring(drawing.svg)
    rectangles = [item for item in tree.iter() if item.tag.endswith("rect")]
    assert len(rectangles) == 2 + 8
    titles = [item.text or "" for item in tree.iter() if item.tag.endswith("title")]
    assert any("".join(NASTY.split())[:30] in "".join(title.split()) for title in titles)
    assert drawing._repr_svg_() == drawing.svg
    drawing.save(tmp_path / "call.svg")
    assert (tmp_path / "call.svg").read_text() == drawing.svg
    assert ElementTree.fromstring(empty_report().plot().svg) is not None


def test_save_by_ending(tmp_path: Path) -> None:
    report = sample_report()
    report.save(tmp_path / "call.json")
    text = (tmp_path / "call.json").read_text()
    assert CallReport.model_validate_json(text) == report
    report.save(tmp_path / "x.HTML")
    assert "<!DOCTYPE html>" in (tmp_path / "x.HTML").read_text()
    with pytest.raises(OutputError, match="exists"):
        report.save(tmp_path / "call.json")
    report.save(tmp_path / "call.json", overwrite=True)
    for name in ("call", "call.docx"):
        with pytest.raises(UsageError):
            report.save(tmp_path / name)
