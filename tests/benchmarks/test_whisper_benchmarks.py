"""Word times and hotwords of the bundled checkpoint, measured on synthetic voices."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def measure(
    bundled_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Runs a benchmark's `main` and gives its last line."""
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed")
    if json.loads((bundled_dir / "config.json").read_text())["model_type"] != "whisper_meta":
        pytest.skip("the bundled checkpoint is no Whisper")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")

    def run(name: str, *arguments: str) -> dict[str, Any]:
        importlib.import_module(name).main(list(arguments))
        result: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        return result

    return run


def test_words_start_where_they_are_said(measure: Any) -> None:
    result = measure("word_times", "--sentences", "4")
    for band in ("wideband", "telephone"):
        assert result[band]["words"] >= 20
        assert result[band]["start_median"] <= 0.06


def test_rare_names_are_written_right_more_often_with_hotwords(measure: Any) -> None:
    result = measure("hotwords", "--names", "8")
    assert result["with"] >= result["without"] + 3
