"""Paired comparison of two reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eval_fakes import Oracle
from eval_trees import manifest

from speechmeta.errors import DatasetError
from speechmeta.eval import Dataset, evaluate, read_dataset
from speechmeta.eval.reports.compare import compare_reports, comparison_tables, mcnemar


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rows = [
        {
            "audio": f"{i}.wav",
            "duration": 0.2,
            "speaker": f"s{i % 8}",
            "speech": True,
            "transcript": "this is my order",
            "gender": "Female" if i % 4 == 0 else "Male",
        }
        for i in range(40)
    ]
    return read_dataset("manifest", manifest(tmp_path / "m.jsonl", rows))


def _report(dataset: Dataset, answers: dict[str, Any] | None = None, **options: Any) -> Any:
    return evaluate(dataset, predictor=Oracle(dataset, answers), **options)


def test_a_run_against_itself(dataset: Dataset) -> None:
    report = _report(dataset, {"3.wav": {"Transcript": "this is"}})
    comparison = compare_reports(report, report)
    for item in comparison["measures"].values():
        assert item["difference"] == 0
        assert item["interval"] == [0, 0]
        assert item["p_bootstrap"] == 1
    assert comparison["measures"]["Gender_accuracy"]["mcnemar"]["p"] == 1


def test_known_differences_are_found(dataset: Dataset) -> None:
    # B misses the last word of every clip and takes ten men for women.
    wrong = {clip.id: {"Transcript": "this is my"} for clip in dataset.clips}
    for number in range(1, 40, 4):
        wrong[f"{number}.wav"]["Gender"] = "Female"
    comparison = compare_reports(_report(dataset), _report(dataset, wrong))
    measures = comparison["measures"]
    assert measures["wer"]["difference"] == pytest.approx(0.25)
    assert measures["wer"]["interval"] == pytest.approx([0.25, 0.25])
    assert measures["wer"]["p_bootstrap"] == pytest.approx(2 / 1001)
    accuracy = measures["Gender_accuracy"]
    assert accuracy["difference"] == pytest.approx(-0.25)
    # Ten discordant clips, all for A: 2 * 0.5 ** 10.
    assert accuracy["mcnemar"] == {
        "only_a_right": 10,
        "only_b_right": 0,
        "p": pytest.approx(2 * 0.5**10),
    }
    # The recall of men falls from 1 to 2/3, that of women stays.
    assert measures["Gender_uar"]["difference"] == pytest.approx(-1 / 6)
    low, high = accuracy["interval"]
    assert low < -0.25 < high <= 0
    table = comparison_tables(comparison)[0]
    assert [row[0] for row in table.rows][:2] == ["wer", "cer"]
    assert table.rows[0][4] == "+25.00"


def test_mcnemar_by_hand() -> None:
    first = np.array([1.0] * 3 + [0.0] * 1 + [1.0] * 5 + [0.0] * 2)
    second = np.array([0.0] * 3 + [1.0] * 1 + [1.0] * 5 + [0.0] * 2)
    # Four discordant: P(at most 1 of 4) twice = 2 * (1 + 4) / 16.
    assert mcnemar(first, second) == {"only_a_right": 3, "only_b_right": 1, "p": 0.625}


def test_only_common_clips_are_compared(dataset: Dataset) -> None:
    from dataclasses import replace

    half = replace(dataset, clips=dataset.clips[:20])
    comparison = compare_reports(_report(dataset), _report(half))
    assert comparison["n"] == 20
    assert "20 clips are only in A and are left out." in comparison["notes"]
    other = replace(dataset, clips=[replace(clip, id="x" + clip.id) for clip in dataset.clips])
    with pytest.raises(DatasetError, match="no clip in common"):
        compare_reports(_report(dataset), _report(other))


def test_words_under_different_normalisers_are_not_compared(dataset: Dataset) -> None:
    comparison = compare_reports(_report(dataset), _report(dataset, normalizer="lower"))
    assert "wer" not in comparison["measures"]
    assert "Gender_accuracy" in comparison["measures"]
    assert comparison["notes"][0].startswith("Words are not compared")


def test_other_references_are_refused(dataset: Dataset) -> None:
    from dataclasses import replace

    changed = replace(
        dataset, clips=[replace(clip, transcript="only two") for clip in dataset.clips]
    )
    with pytest.raises(DatasetError, match="other references"):
        compare_reports(_report(dataset), _report(changed))
