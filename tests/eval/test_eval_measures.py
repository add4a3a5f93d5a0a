"""Measures against hand-computed cases, and against jiwer and scikit-learn."""

from __future__ import annotations

import json
import random
from pathlib import Path

import jiwer
import numpy as np
import pytest
from sklearn import metrics

from speechmeta.errors import DatasetError, UsageError
from speechmeta.eval.metrics.bootstrap import interval, ratio
from speechmeta.eval.metrics.labelscores import LabelCase, calibration, risk_coverage, score_labels
from speechmeta.eval.metrics.normalizers import NORMALIZERS, load_normalizer
from speechmeta.eval.metrics.score import score_records
from speechmeta.eval.metrics.word_errors import (
    EditCounts,
    aligned,
    character_counts,
    total,
    word_counts,
)
from speechmeta.eval.types import Record, Value
from speechmeta.schema import DEFAULT_LABEL_SETS, FIELDS

AGES = DEFAULT_LABEL_SETS["Age"]


def record(
    name: str,
    reference: dict[str, Value],
    prediction: dict[str, Value] | None,
    speaker: str | None = "p",
    probabilities: dict[str, dict[str, float]] | None = None,
) -> Record:
    return Record(
        id=name,
        audio=f"/nowhere/{name}",
        dataset="set",
        speaker=speaker,
        duration=2.0,
        seconds=0.5,
        reference=reference,
        prediction=prediction or {},
        probabilities=probabilities or {},
        output=None,
        error="broken" if prediction is None else None,
    )


def test_word_counts_by_hand() -> None:
    # the cat sat on the mat / the bat sat on mat mat: S cat-bat, S the-mat.
    counts = word_counts("the cat sat on the mat", "the bat sat on mat mat")
    assert counts == EditCounts(hits=4, substitutions=2, deletions=0, insertions=0)
    assert word_counts("a b c", "") == EditCounts(deletions=3)
    assert word_counts("a", "a b c") == EditCounts(hits=1, insertions=2)
    assert word_counts("a", "b c").rate == 2.0
    assert character_counts("ab c", "ab d") == EditCounts(hits=3, substitutions=1)


def test_corpus_rate_is_of_sums_and_equals_jiwers() -> None:
    generator = random.Random(1)
    words = "yes no i got it thank you for calling".split()
    references, hypotheses = [], []
    for _ in range(200):
        text = [generator.choice(words) for _ in range(generator.randint(1, 12))]
        said = [w for w in text if generator.random() > 0.15]
        said = [generator.choice(words) if generator.random() < 0.2 else w for w in said]
        references.append(" ".join(text))
        hypotheses.append(" ".join(said))
    pairs = list(zip(references, hypotheses, strict=True))
    words_total = total(word_counts(ref, hyp) for ref, hyp in pairs)
    output = jiwer.process_words(references, hypotheses)
    assert words_total == EditCounts(
        output.hits, output.substitutions, output.deletions, output.insertions
    )
    assert words_total.rate == pytest.approx(jiwer.wer(references, hypotheses))
    characters = total(character_counts(ref, hyp) for ref, hyp in pairs)
    assert characters.rate == pytest.approx(jiwer.cer(references, hypotheses))


def test_empty_references_have_no_rate() -> None:
    assert EditCounts(insertions=3).rate is None
    with pytest.raises(ValueError, match="empty"):
        word_counts(" ", "a")
    with pytest.raises(ValueError, match="empty"):
        character_counts("", "a")


def test_words_are_aligned_by_the_fewest_edits() -> None:
    assert aligned("a b c", "a x c d") == [
        ("equal", "a", "a"), ("substitute", "b", "x"), ("equal", "c", "c"), ("insert", "", "d"),
    ]  # fmt: skip
    assert aligned("", "a") == [("insert", "", "a")]
    assert aligned("", "") == []


def test_whispers_normaliser_is_the_default_and_is_named() -> None:
    normalizer = load_normalizer()
    assert normalizer("Hello there, Mr. Smith: it's TWENTY FIVE dollars, um") == (
        "hello there mister smith it is $25"
    )
    assert normalizer("colour") == "colour"
    assert normalizer.name == "whisper-english (no spelling map)"
    assert "EnglishTextNormalizer of transformers" in normalizer.description


def test_a_spelling_map_joins_the_normaliser(tmp_path: Path) -> None:
    path = tmp_path / "english.json"
    path.write_text(json.dumps({"colour": "color"}))
    normalizer = load_normalizer("whisper-english", path)
    assert normalizer("The colour") == "the color"
    assert "spelling map of 1 words" in normalizer.description
    with pytest.raises(UsageError, match="takes no spelling map"):
        load_normalizer("lower", path)
    path.write_text("[1]")
    with pytest.raises(DatasetError, match="not an object of strings"):
        load_normalizer("whisper-english", path)


def test_each_normaliser_does_what_its_name_says() -> None:
    text = "Don't  STOP [noise]"
    assert load_normalizer("lower")(text) == "don't stop [noise]"
    assert load_normalizer("none")(text) == "Don't STOP [noise]"
    assert load_normalizer("whisper-basic")(text) == "don t stop"
    with pytest.raises(UsageError, match="unknown normaliser"):
        load_normalizer("upper")
    assert all(load_normalizer(name).name for name in NORMALIZERS)


def _random_cases(count: int, none: float = 0.1) -> list[LabelCase]:
    generator = random.Random(2)
    cases = []
    for i in range(count):
        reference = generator.choices(AGES[:2], [3, 1])[0]
        weights = {name: generator.random() + (name == reference) for name in AGES}
        mass = sum(weights.values())
        probabilities = {name: value / mass for name, value in weights.items()}
        prediction: str | None = max(probabilities, key=probabilities.__getitem__)
        if generator.random() < none:
            prediction = None
        cases.append(LabelCase(f"s{i % 17}", reference, prediction, False, probabilities))
    return cases


def test_label_measures_equal_scikit_learns() -> None:
    cases = _random_cases(400)
    scores = score_labels(cases, AGES)
    assert scores is not None
    references = [case.reference for case in cases]
    predictions = [case.prediction or "(none)" for case in cases]
    present = sorted(set(references))
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(references, predictions))
    assert scores["uar"] == pytest.approx(
        metrics.recall_score(
            references, predictions, labels=present, average="macro", zero_division=0
        )
    )
    assert scores["macro_f1"] == pytest.approx(
        metrics.f1_score(references, predictions, labels=present, average="macro", zero_division=0)
    )
    table = metrics.confusion_matrix(references, predictions, labels=[*AGES, "(none)"])
    assert scores["confusion"]["counts"] == table[:3].tolist()
    assert scores["confusion"]["columns"] == [*AGES, "(none)"]
    assert scores["classes_in_references"] == ["Young", "Middle-Age"]
    assert scores["coverage"] == pytest.approx(np.mean([c.prediction is not None for c in cases]))
    precision = metrics.precision_score(
        references, predictions, labels=["Young"], average=None, zero_division=0
    )
    assert scores["per_class"]["Young"]["precision"] == pytest.approx(precision[0])


def test_uar_equals_scikit_learns_where_every_clip_has_a_label() -> None:
    cases = _random_cases(300, none=0)
    scores = score_labels(cases, AGES)
    assert scores is not None
    recall = metrics.recall_score(
        [c.reference for c in cases],
        [c.prediction for c in cases],
        labels=["Young", "Middle-Age"],
        average="macro",
    )
    assert scores["uar"] == pytest.approx(recall)


def test_uar_by_hand_over_the_classes_in_the_references() -> None:
    # Young 3 of 4, Middle-Age 0 of 1, Senior does not occur: (0.75 + 0) / 2.
    cases = [LabelCase("a", "Young", "Young")] * 3 + [
        LabelCase("b", "Young", "Senior"),
        LabelCase("b", "Middle-Age", None),
    ]
    scores = score_labels(cases, AGES)
    assert scores is not None
    assert scores["accuracy"] == pytest.approx(0.6)
    assert scores["uar"] == pytest.approx(0.375)
    # F1 of Young: 2 * 3 / (4 + 3); of Middle-Age 0.
    assert scores["macro_f1"] == pytest.approx((6 / 7) / 2)
    assert scores["coverage"] == pytest.approx(0.8)
    assert scores["majority_accuracy"] == pytest.approx(0.8)
    assert scores["ece"] is None


def test_ignore_abstained_leaves_nulls_out_but_never_failures() -> None:
    cases = [
        LabelCase("a", "Young", "Young"),
        LabelCase("a", "Young", None),
        LabelCase("b", "Young", None, failed=True),
        LabelCase("b", "Senior", "Young"),
    ]
    counted = score_labels(cases, AGES)
    ignored = score_labels(cases, AGES, ignore_abstained=True)
    assert counted is not None
    assert ignored is not None
    assert (counted["n"], counted["accuracy"]) == (4, 0.25)
    assert (ignored["n"], ignored["accuracy"]) == (3, pytest.approx(1 / 3))
    assert counted["coverage"] == ignored["coverage"] == 0.5


def test_expected_calibration_error_by_hand() -> None:
    def case(top: float, correct: bool) -> LabelCase:
        rest = 1 - top
        return LabelCase(
            "u", "Young" if correct else "Senior", "Young", False, {"Young": top, "Senior": rest}
        )

    # Bin (0.8, 0.867]: 0.85 twice, one right: |0.85 - 0.5|. Last bin: 0.95 and 1.0, both right:
    # |0.975 - 1|. Bin (0.6, 0.667]: 0.62, wrong: 0.62.
    cases = [case(0.85, True), case(0.85, False), case(0.95, True), case(1.0, True)]
    cases.append(case(0.62, False))
    result = calibration(cases)
    assert result["ece"] == pytest.approx((2 * 0.35 + 2 * 0.025 + 0.62) / 5)
    assert [b["n"] for b in result["reliability"]] == [1, 2, 2]
    assert result["ece_n"] == 5


def test_few_clips_are_never_calibrated_by_chance() -> None:
    def cases(top: float, count: int) -> list[LabelCase]:
        sure = {"Young": top, "Senior": 1 - top}
        return [LabelCase("u", "Young", "Young", False, sure) for _ in range(count)]

    # One clip of which 0.6 is said: off by 0.4 in 0.6 of the draws, and by 0.6 in the others.
    assert calibration(cases(0.6, 1))["ece_by_chance"] == pytest.approx(0.48, abs=0.02)
    assert calibration(cases(1.0, 5))["ece_by_chance"] == 0.0
    assert calibration(cases(0.6, 400))["ece_by_chance"] < 0.03


def test_abstained_labels_still_count_for_calibration() -> None:
    cases = [LabelCase("u", "Young", None, False, {"Young": 0.6, "Senior": 0.4})]
    assert calibration(cases)["ece"] == pytest.approx(0.4)


def test_risk_coverage_by_hand() -> None:
    # Most confident first: right, right, wrong, right, wrong.
    result = risk_coverage(np.array([0.9, 0.5, 0.8, 0.7, 0.6]), np.array([1.0, 0.0, 1.0, 0.0, 1.0]))
    risks = [0, 0, 1 / 3, 1 / 4, 2 / 5]
    assert result["aurc"] == pytest.approx(np.mean(risks))
    assert result["curve"][-1] == {
        "coverage": 1.0, "risk": pytest.approx(0.4), "threshold": pytest.approx(0.5),
    }  # fmt: skip


def test_ties_in_confidence_have_no_order() -> None:
    correct = np.array([1.0, 0.0, 1.0, 0.0])
    flat = np.full(4, 0.7)
    assert risk_coverage(flat, correct) == risk_coverage(flat, correct[::-1].copy())
    assert risk_coverage(flat, correct)["aurc"] == pytest.approx(0.5)


def test_intervals_resample_speakers_and_not_clips() -> None:
    # Ten speakers, each all right or all wrong: clips of one speaker say the same.
    truth = np.repeat([1.0] * 5 + [0.0] * 5, 100)
    values = np.stack([truth, np.ones(1000)], axis=1)
    by_speaker = interval([f"s{i // 100}" for i in range(1000)], values, ratio)
    by_clip = interval([f"c{i}" for i in range(1000)], values, ratio)
    assert by_speaker is not None
    assert by_clip is not None
    # The spread of a mean of ten coins is about 0.158, of a thousand 0.0158.
    assert by_speaker[1] - by_speaker[0] == pytest.approx(4 * 0.158, rel=0.15)
    assert by_clip[1] - by_clip[0] == pytest.approx(4 * 0.0158, rel=0.15)
    assert interval(["one"] * 1000, values, ratio) is None


def test_intervals_are_the_same_every_time() -> None:
    values = np.stack([np.arange(20.0), np.full(20, 20.0)], axis=1)
    units = [str(i) for i in range(20)]
    assert interval(units, values, ratio) == interval(units, values, ratio)


def test_failed_clips_are_in_every_denominator() -> None:
    records = [
        record(
            "ok",
            {"SpeechActivity": True, "Transcript": "one two three four", "Gender": "Male"},
            {"SpeechActivity": True, "Transcript": "one two three", "Gender": "Male"},
        ),
        record(
            "bad", {"SpeechActivity": True, "Transcript": "five six", "Gender": "Male"}, None, "q"
        ),
        record("silent", {"SpeechActivity": False}, None, "r"),
    ]
    report = score_records(records, load_normalizer("lower"), fields=FIELDS)
    assert (report["n"], report["errors"]) == (3, 2)
    assert report["failures"] == [
        {"id": "bad", "error": "broken"}, {"id": "silent", "error": "broken"},
    ]  # fmt: skip
    assert report["wer"] == pytest.approx(3 / 6)
    assert report["words"]["deletions"] == 3
    assert report["labels"]["Gender"]["accuracy"] == 0.5
    speech = report["speech_activity"]
    # The failed speech clip is a miss, the failed silent one a false alarm.
    assert (speech["precision"], speech["recall"], speech["specificity"]) == (0.5, 0.5, 0.0)
    assert speech["accuracy"] == pytest.approx(1 / 3)


def test_empty_references_and_silence_are_reported_apart() -> None:
    records = [
        record(
            "um", {"SpeechActivity": True, "Transcript": "Um, mhm"}, {"Transcript": "hello you"}
        ),
        record("void", {"SpeechActivity": True, "Transcript": ""}, {"Transcript": ""}),
        record("cry", {"SpeechActivity": False}, {"Transcript": "mama", "SpeechActivity": True}),
        record("none", {"SpeechActivity": True}, {"Transcript": "not counted"}),
        record("real", {"Transcript": "good day"}, {"Transcript": "good day"}),
    ]
    report = score_records(records, load_normalizer(), fields=("SpeechActivity", "Transcript"))
    assert report["wer"] == 0.0
    assert report["words"]["clips"] == 1
    assert report["empty_references"] == {
        "ids": ["um", "void"], "n": 2, "with_words": 1, "words": 2,
    }  # fmt: skip
    assert report["non_speech"] == {"n": 1, "with_words": 1, "words": 1}
    assert report["labels"] == {}


def test_without_references_there_is_no_rate() -> None:
    report = score_records(
        [record("a", {}, {"Transcript": "x"})], load_normalizer("lower"), fields=("Transcript",)
    )
    assert report["wer"] is None
    assert report["speech_activity"] is None
    with pytest.raises(DatasetError, match="no records"):
        score_records([], load_normalizer("lower"), fields=FIELDS)


def test_speech_activity_by_hand() -> None:
    pairs = [(True, True)] * 6 + [(True, False)] * 2 + [(False, True)] + [(False, False)] * 3
    records = [
        record(str(i), {"SpeechActivity": ref}, {"SpeechActivity": said})
        for i, (ref, said) in enumerate(pairs)
    ]
    speech = score_records(records, load_normalizer("lower"), fields=("SpeechActivity",))[
        "speech_activity"
    ]
    assert speech["precision"] == pytest.approx(6 / 7)
    assert speech["recall"] == pytest.approx(6 / 8)
    assert speech["specificity"] == pytest.approx(3 / 4)
    assert (speech["misses"], speech["false_alarms"]) == (2, 1)
    references, said = zip(*pairs, strict=True)
    assert speech["f1"] == pytest.approx(metrics.f1_score(references, said))


def test_groups_sources_and_gaps() -> None:
    records = []
    for i in range(60):
        female = i % 2 == 0
        words = "a b c d"
        said = "a b c" if female else "a b c d"
        reference: dict[str, Value] = {
            "Transcript": words,
            "Gender": "Female" if female else "Male",
        }
        records.append(
            record(str(i), reference, {"Transcript": said, "Gender": "Male"}, speaker=str(i % 6))
        )
    records.append(record("rare", {"Transcript": "x", "Age": "Senior"}, {"Transcript": "y"}))
    report = score_records(records, load_normalizer("lower"), fields=("Transcript", "Gender"))
    groups = report["groups"]["Gender"]
    assert groups["groups"]["Female"]["wer"] == pytest.approx(0.25)
    assert groups["groups"]["Male"]["accuracy"]["Gender"] == {"accuracy": 1.0, "n": 30}
    assert groups["gaps"]["wer"] == {"best": "Male", "worst": "Female", "gap": 0.25}
    assert groups["gaps"]["Gender"] == {"best": "Male", "worst": "Female", "gap": 1.0}
    assert "Age" not in report["groups"]
    assert report["sources"]["set"]["n"] == 61


def test_a_protocols_classes_restrict_the_prediction() -> None:
    probabilities = {"Emotion": {"Frustrated": 0.5, "Anger": 0.3, "Happy": 0.2, "Sad": 0.0}}
    four = ("Happy", "Sad", "Anger", "Neutral")
    records = [
        record("a", {"Emotion": "Anger"}, {"Emotion": "Frustrated"}, "s1", probabilities),
        record("b", {"Emotion": "Sad"}, {"Emotion": None}, "s2", probabilities),
    ]
    free = score_records(records, load_normalizer("lower"), fields=("Emotion",))
    bound = score_records(
        records, load_normalizer("lower"), fields=("Emotion",), classes={"Emotion": four}
    )
    assert free["labels"]["Emotion"]["accuracy"] == 0.0
    assert bound["labels"]["Emotion"]["accuracy"] == 0.5
    assert bound["labels"]["Emotion"]["confusion"]["rows"] == list(four)
    assert bound["labels"]["Emotion"]["mean_confidence"] == pytest.approx(0.6)
