"""What the command line writes: UTF-8 whatever the locale, and never an escape sequence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from speechmeta.cli.batch import listed_kinds
from speechmeta.cli.console import print_error, print_note
from speechmeta.cli.options import ExcelCountry, formats_of
from speechmeta.errors import OutputError

# Only ASCII, because the locale is also that in which a command line is read.
SAYS = r"""
import sys
from speechmeta.cli.console import print_note, speak_utf8
speak_utf8()
print("Zo\u00eb \u0437\u0432\u043e\u043d\u043e\u043a \u4f60 \udcff")
print_note("Zo\u00eb \udcff")
"""


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "cp1252"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": ""}],
)
def test_both_outputs_are_utf_8(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAYS], capture_output=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0
    assert done.stdout.decode("utf-8") == "Zoë звонок 你 \\udcff\n"
    assert done.stderr.decode("utf-8") == "speechmeta: Zoë \\xff\n"


def test_notes_and_errors_show_escape_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    print_note("a\x1b[2J\x07.wav")
    print_error("a\x1b]0;t\x07\u202e.wav is empty", "look at \x9b1m")
    assert capsys.readouterr().err == (
        "speechmeta: a\\x1b[2J\\x07.wav\n"
        "speechmeta: a\\x1b]0;t\\x07\\u202e.wav is empty; look at \\x9b1m\n"
    )


def test_csv_takes_the_form_that_excel_opens() -> None:
    assert formats_of("json, csv", None) == ("json", "csv")
    assert formats_of("json,csv", ExcelCountry.COMMA) == ("json", "csv-excel")
    assert formats_of("CSV", ExcelCountry.SEMICOLON) == ("csv-excel-semicolon",)


def test_all_formats_are_written_once() -> None:
    from speechmeta.writers import WRITERS

    named = formats_of("all", None)
    assert len(set(named)) == len(named)
    assert set(WRITERS) - set(named) == {"jsonl", "parquet", "csv-excel", "csv-excel-semicolon"}
    assert "csv-excel" in formats_of("all", ExcelCountry.COMMA)


def test_other_files_are_named_by_kind() -> None:
    assert listed_kinds({".txt": 1, ".pdf": 3, ".a": 1}) == "3 .pdf, 1 .a, 1 .txt"


def test_overwrite_never_replaces_a_recording(tmp_path: Path) -> None:
    from speechmeta.cli.analyze import _plan_outputs

    recording = tmp_path / "call.json"
    recording.write_bytes(b"RIFF")
    with pytest.raises(OutputError, match="one of the recordings"):
        _plan_outputs([str(recording)], tmp_path, "json", None, True)
    assert _plan_outputs([str(recording)], tmp_path, "csv", None, True)
