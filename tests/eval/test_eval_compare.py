"""Paired comparison of two reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eval_fakes import Oracle
from eval_trees import manifest

from speechmeta.errors import DatasetError, UsageError
from speechmeta.eval import Dataset, evaluate, read_dataset
from speechmeta.eval.reports.compare import compare_reports, holm, mcnemar
from speechmeta.eval.reports.compare_tables import comparison_tables
from speechmeta.eval.reports.markdown import render_comparison_markdown


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rows = [
        {
            "audio": f"{i}.wav",
            "dataset": "odd" if i % 2 else "even",
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


def _pair(item: Any) -> Any:
    assert len(item["differences"]) == 1
    return item["differences"][0]


def test_a_run_against_itself(dataset: Dataset) -> None:
    report = _report(dataset, {"3.wav": {"Transcript": "this is"}})
    comparison = compare_reports([report, report])
    for item in comparison["measures"].values():
        pair = _pair(item)
        assert pair["difference"] == 0
        assert pair["interval"] == [0, 0]
        assert pair["p_bootstrap"] == pair["p_holm"] == 1
    assert _pair(comparison["measures"]["Gender_accuracy"])["mcnemar"]["p"] == 1


def _wrong(dataset: Dataset) -> dict[str, Any]:
    """Misses the last word of every clip and takes ten men for women."""
    wrong = {clip.id: {"Transcript": "this is my"} for clip in dataset.clips}
    for number in range(1, 40, 4):
        wrong[f"{number}.wav"]["Gender"] = "Female"
    return wrong


def test_known_differences_are_found(dataset: Dataset) -> None:
    comparison = compare_reports([_report(dataset), _report(dataset, _wrong(dataset))])
    measures = comparison["measures"]
    wer = _pair(measures["wer"])
    assert wer["difference"] == pytest.approx(0.25)
    assert wer["interval"] == pytest.approx([0.25, 0.25])
    assert wer["p_bootstrap"] == pytest.approx(2 / 1001)
    assert [value["value"] for value in measures["wer"]["values"]] == [0, 0.25]
    accuracy = _pair(measures["Gender_accuracy"])
    assert accuracy["difference"] == pytest.approx(-0.25)
    # Ten discordant clips, all for A: 2 * 0.5 ** 10.
    assert accuracy["mcnemar"] == {
        "only_a_right": 10,
        "only_b_right": 0,
        "p": pytest.approx(2 * 0.5**10),
    }
    # The recall of men falls from 1 to 2/3, that of women stays.
    assert _pair(measures["Gender_uar"])["difference"] == pytest.approx(-1 / 6)
    low, high = accuracy["interval"]
    assert low < -0.25 < high <= 0
    values, differences = comparison_tables(comparison)[:2]
    assert [row[0] for row in values.rows][:2] == ["WER", "CER"]
    assert differences.rows[0][:4] == ("WER", "B - A", "40", "+25.00")


def test_three_systems_one_of_which_knows_words_only(dataset: Dataset) -> None:
    words: dict[str, Any] = {c.id: {"Transcript": "this is my odor"} for c in dataset.clips}
    only_words = evaluate(
        dataset, predictor=Oracle(dataset, words, fields=["Transcript"], name="words")
    )
    reports = [only_words, _report(dataset), _report(dataset, _wrong(dataset))]
    comparison = compare_reports(reports, ["words", "good", "bad"])
    measures = comparison["measures"]
    assert [(pair["a"], pair["b"]) for pair in measures["wer"]["differences"]] == [
        ("A", "B"), ("A", "C"), ("B", "C"),
    ]  # fmt: skip
    assert [round(pair["difference"], 6) for pair in measures["wer"]["differences"]] == [
        -0.25, 0, 0.25,
    ]  # fmt: skip
    p = [pair["p_bootstrap"] for pair in measures["wer"]["differences"]]
    assert [pair["p_holm"] for pair in measures["wer"]["differences"]] == holm(p)
    gender = measures["Gender_accuracy"]
    assert gender["values"][0] is None
    assert [(pair["a"], pair["b"]) for pair in gender["differences"]] == [("B", "C")]
    # The groups are known from the other reports, for the first system too.
    men = comparison["groups"]["Gender"]["Male"]
    assert men["wer"]["values"][0]["value"] == 0.25
    assert men["Gender_accuracy"]["values"][2]["value"] == pytest.approx(2 / 3)
    assert "Gender_uar" not in men
    sources = comparison["sources"]
    assert (sources["odd"]["wer"]["n"], sources["even"]["wer"]["n"]) == (20, 20)
    assert sources["odd"]["Gender_accuracy"]["values"][2]["value"] == 0.5
    # Ten women are too few for a gap.
    assert comparison["gaps"]["Gender"] == {}
    text = render_comparison_markdown(comparison)
    assert "- A: words (fake)" in text
    assert "| Gender: Female (few) | 10 |" in text
    assert "| n/a |  | 100.00 |" in text


def test_clips_are_resampled_when_asked_to(dataset: Dataset) -> None:
    from dataclasses import replace

    # One speaker: nothing to resample but clips.
    alone = replace(
        dataset, clips=[replace(clip, speaker="one", dataset="d") for clip in dataset.clips]
    )
    reports = [_report(alone), _report(alone, _wrong(alone))]
    assert _pair(compare_reports(reports)["measures"]["wer"])["interval"] is None
    by_clip = compare_reports(reports, resample="clips")
    assert _pair(by_clip["measures"]["wer"])["interval"] == pytest.approx([0.25, 0.25])
    low, high = by_clip["measures"]["Gender_accuracy"]["values"][1]["interval"]
    assert 0.5 < low < 0.75 < high < 1


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.04: times 3, 2, 1; never smaller than the one before.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.5]) == [1.0, 1.0]


def test_the_numbers_of_reports_and_names_have_to_fit(dataset: Dataset) -> None:
    report = _report(dataset)
    with pytest.raises(UsageError, match="1 reports"):
        compare_reports([report])
    with pytest.raises(UsageError, match="1 names for 2 reports"):
        compare_reports([report, report], ["one"])


def test_mcnemar_by_hand() -> None:
    first = np.array([1.0] * 3 + [0.0] * 1 + [1.0] * 5 + [0.0] * 2)
    second = np.array([0.0] * 3 + [1.0] * 1 + [1.0] * 5 + [0.0] * 2)
    # Four discordant: P(at most 1 of 4) twice = 2 * (1 + 4) / 16.
    assert mcnemar(first, second) == {"only_a_right": 3, "only_b_right": 1, "p": 0.625}


def test_only_common_clips_are_compared(dataset: Dataset) -> None:
    from dataclasses import replace

    half = replace(dataset, clips=dataset.clips[:20])
    comparison = compare_reports([_report(dataset), _report(half)])
    assert comparison["n"] == 20
    note = "20 clips of A are not in all the reports, and are left out."
    assert note in comparison["notes"]
    other = replace(dataset, clips=[replace(clip, id="x" + clip.id) for clip in dataset.clips])
    with pytest.raises(DatasetError, match="no clip in common"):
        compare_reports([_report(dataset), _report(other)])


def test_words_under_different_normalisers_are_not_compared(dataset: Dataset) -> None:
    comparison = compare_reports([_report(dataset), _report(dataset, normalizer="lower")])
    assert "wer" not in comparison["measures"]
    assert "Gender_accuracy" in comparison["measures"]
    assert comparison["notes"][0].startswith("Words are not compared")


def test_other_references_are_refused(dataset: Dataset) -> None:
    from dataclasses import replace

    changed = replace(
        dataset, clips=[replace(clip, transcript="only two") for clip in dataset.clips]
    )
    with pytest.raises(DatasetError, match="other references"):
        compare_reports([_report(dataset), _report(changed)])
