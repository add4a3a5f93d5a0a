"""The code in docs/contributing works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_samples import sample_report

from speechmeta.errors import DatasetError, UsageError
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions
from speechmeta.settings import Options, entries, option

HOW_TO = Path(__file__).parents[1] / "docs" / "contributing"


def example(page: str, package: str = "", **names: Any) -> dict[str, Any]:
    """What the page's first block of Python defines, as a module of a package."""
    text = (HOW_TO / f"{page}.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    found = {"__name__": f"{package}.example", "__package__": package, **names}
    exec(compile(block[1], page, "exec", dont_inherit=True), found)
    return found


def test_the_writer_of_the_page_writes(tmp_path: Path) -> None:
    writer = example("add-a-writer")["LogWriter"]()
    report = sample_report()
    writer.write(report, tmp_path / f"call{writer.extension}")
    lines = (tmp_path / "call.log").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(report.turns)
    assert lines[0].startswith(f"{report.turns[0].start:.2f} {report.turns[0].speaker}: ")


def test_the_reader_of_the_page_reads(tmp_path: Path) -> None:
    read = example("add-a-data-set-reader", "speechmeta.eval.readers")["read_example"]
    with pytest.raises(DatasetError, match="not an Example Speech"):
        read(tmp_path, None)
    folder = tmp_path / "example-speech"
    folder.mkdir()
    (folder / "texts.tsv").write_text("file\ttext\tgender\na.flac\thello\tfemale\nb.flac\tyes\t\n")
    dataset = read(tmp_path, None)
    assert [clip.transcript for clip in dataset.clips] == ["hello", "yes"]
    assert dataset.clips[0].audio == folder / "audio" / "a.flac"
    assert dataset.split == "test"


@pytest.mark.slow
def test_the_model_family_of_the_page_analyses_calls() -> None:
    model = example("add-a-model-family")["LevelModel"]()
    analyzer = Analyzer.from_engine(model)
    time = np.arange(16000) / 16000
    tone = np.sin(2 * np.pi * 300 * time).astype(np.float32)
    rows = np.stack([0.5 * tone, 0.005 * tone])
    report = analyzer.analyze_call((rows, 16000), vad=False, channels="split")
    assert report.model.name == "level"
    assert [turn.meta.speech_activity for turn in report.turns] == [True, False]
    with pytest.raises(UsageError, match="does not give Gender"):
        analyzer.analyze_call((rows, 16000), fields=["Gender"])


def test_the_option_of_the_page_is_a_flag_a_variable_and_a_key() -> None:
    default = example("add-an-option", option=option, AUDIO="Audio")["tempo"]
    made = type("Longer", (CallOptions,), {"__annotations__": {"tempo": float}, "tempo": default})
    assert issubclass(made, Options)
    entry = next(item for item in entries(made) if item.key == "tempo")
    assert (entry.flag, entry.variable) == ("--tempo", "SPEECHMETA_TEMPO")
    assert made(tempo=0.5).model_dump()["tempo"] == 0.5
