"""What the documentation quotes is what was measured."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("figures")


def test_every_quoted_figure_is_in_the_committed_results(figures: ModuleType) -> None:
    assert figures.faults(ROOT) == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The pages and results on their own, to be changed."""
    for folder in ("docs", "eval/results", "benchmarks/results", "speechmeta/checkpoints/bundled"):
        ignored = shutil.ignore_patterns("*.safetensors", "*.png", "*.html", "*.jsonl")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def _change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_changed_figure_is_found_in_a_page_and_in_the_card(
    figures: ModuleType, copy: Path
) -> None:
    _change(copy / "README.md", "| gender, accuracy | 95.9 % |", "| gender, accuracy | 96.9 % |")
    card = copy / "speechmeta/checkpoints/bundled/README.md"
    _change(card, "| Gender | Female | 95", "| Gender | Female | 85")
    found = figures.faults(copy)
    assert "README.md does not say: | gender, accuracy | 95.9 % |" in found
    assert "README.md: 96.9 is in no result: | gender, accuracy | 96.9 % |" in found
    assert [fault for fault in found if "card.py" in fault and "classes" in fault]


def test_a_changed_result_is_found(figures: ModuleType, copy: Path) -> None:
    _change(copy / "eval/results/bundled-test.json", '"wer": 0.076959', '"wer": 0.086959')
    found = figures.faults(copy)
    assert "README.md does not say: | word error rate, all clips with words | 8.7 % |" in found


def test_a_number_that_nobody_measured_is_found(figures: ModuleType, copy: Path) -> None:
    _change(copy / "docs/calibration.md", "## Words\n", "## Words\n\nIt is right in 99.9 %.\n")
    assert figures.faults(copy) == [
        "docs/calibration.md: 99.9 is in no result: It is right in 99.9 %."
    ]
    _change(copy / "docs/calibration.md", "## Words\n", "## Spoken\n")
    assert "docs/calibration.md: there is no section 'Words'" in figures.faults(copy)


def test_a_paragraph_that_links_to_a_result_is_looked_up(figures: ModuleType, copy: Path) -> None:
    line = "It takes 7 s ([measured](../benchmarks/results/confidence.txt))."
    (copy / "docs" / "new.md").write_text(f"# New\n\n{line}\n\nAnd 8 more.\n")
    assert figures.faults(copy) == [f"docs/new.md: nothing of this is in docs/figures.yaml: {line}"]


def test_a_value_that_is_gone_is_named(figures: ModuleType, copy: Path) -> None:
    _change(copy / "eval/results/bundled-test.json", '"non_speech": {', '"silent": {')
    found = [fault for fault in figures.faults(copy) if "non_speech" in fault]
    assert len(found) == 1
    assert "eval/results/bundled-test.json has no non_speech.with_words" in found[0]


def test_an_entry_in_the_wrong_part_of_the_list_is_named(
    figures: ModuleType,
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    listed = copy / "docs" / "figures.yaml"
    quote = '  - page: README.md\n    text: "| {} CPU seconds |"\n    values: [cpu_seconds]\n'
    _change(listed, "complete:\n", f"complete:\n{quote}")
    _change(listed, "settings:\n", f"settings:\n{quote}")
    _change(listed, "quotes:\n", 'quotes:\n  - page: README.md\n    text: "8 GB"\n')
    monkeypatch.setattr(figures.faults, "__defaults__", (copy,))
    assert figures.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "docs/figures.yaml: under quotes, this has no values: 8 GB",
        "docs/figures.yaml: under complete, this has no section and cannot have text and cannot "
        "have values: | {} CPU seconds |",
        "docs/figures.yaml: under settings, this cannot have values: | {} CPU seconds |",
    ]


def test_values_are_rounded_as_people_do(figures: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x.y": {"z": [5.25, 0.12345]}, "n": 1736}')
    (tmp_path / "a.txt").write_text("first 7\nrow  12.5 s\n")
    for spec, expected in (
        (r"x\.y.z.0 | .1", "5.3"),
        (r"x\.y.z.1 | %2", "12.35"),
        ("n | ,", "1,736"),
        ("n | /1000 | .1", "1.7"),
        (r"a.txt#~^row +(\S+)", "12.5"),
    ):
        assert figures.value(tmp_path, spec, "a.json") == expected
    with pytest.raises(figures.NotFoundInResults):
        figures.value(tmp_path, "~^column", "a.txt")
