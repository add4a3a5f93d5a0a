"""The published protocol, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from eval_trees import OURS, manifest
from tiny import taught_speechllm, taught_values, tiny_speechllm

from speechmeta.audio.loading import Audio, load_audio
from speechmeta.decoding.layout import COMPACT_LAYOUT, PUBLISHED_LAYOUT
from speechmeta.eval import Dataset, evaluate, read_dataset
from speechmeta.eval.evaluation import evaluate as evaluate_function
from speechmeta.eval.metrics.teacher_forced import (
    TeacherForcedPredictor,
    read_answer,
    score_teacher_forced,
    value_spans,
)
from speechmeta.eval.types import Clip, Record, Value
from speechmeta.schema import LABEL_FIELDS

pytestmark = pytest.mark.slow


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return read_dataset("manifest", manifest(tmp_path / "data" / "dev.jsonl", OURS))


def test_gold_answers_follow_the_checkpoints_layout(dataset: Dataset) -> None:
    published = TeacherForcedPredictor(*tiny_speechllm(layout=PUBLISHED_LAYOUT), "tiny")
    compact = TeacherForcedPredictor(*tiny_speechllm(layout=COMPACT_LAYOUT), "tiny")
    gold = published.gold_values(dataset.clips[0])
    assert PUBLISHED_LAYOUT.render(gold) == (
        '{  "SpeechActivity": "True",   "Transcript": "hello there, mr. smith",   "Gender": '
        '"female",   "Emotion": "happy",   "Age": "young",   "Accent": "america", }'
    )
    assert COMPACT_LAYOUT.render(compact.gold_values(dataset.clips[0])) == (
        '{"SpeechActivity": "True", "Gender": "Female", "Age": "Young", "Accent": "America", '
        '"Emotion": "Happy", "Transcript": " hello there, mr. smith"}'
    )
    # Fields that are not known are not part of the answer.
    assert list(published.gold_values(dataset.clips[2])) == [
        "SpeechActivity", "Gender", "Age", "Accent",
    ]  # fmt: skip
    assert published.gold_values(dataset.clips[3]) == {"SpeechActivity": "False"}


def test_the_prediction_is_the_argmax_after_the_gold_prefix(dataset: Dataset) -> None:
    model, processor = tiny_speechllm(layout=PUBLISHED_LAYOUT)
    predictor = TeacherForcedPredictor(model, processor, "tiny")
    clip = dataset.clips[0]
    audio = load_audio(clip.audio)
    audio = Audio(audio.resampled(), 16000)
    prediction = predictor.predict_clips([clip], [audio])[0]
    # The same, one token at a time: everything before a token is gold.
    gold = predictor.gold_values(clip)
    answer = processor.tokenizer(PUBLISHED_LAYOUT.render(gold), add_special_tokens=False)[
        "input_ids"
    ]
    instruction = PUBLISHED_LAYOUT.instruction_for(gold)
    inputs = processor(audio=audio.mono(), sampling_rate=16000, instruction=instruction)
    said = []
    for place in range(len(answer)):
        prefix = torch.tensor([answer[:place]], dtype=torch.long)
        ids = torch.cat([inputs["input_ids"], prefix], dim=1)
        with torch.inference_mode():
            logits = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                input_values=inputs["input_values"],
                audio_attention_mask=inputs["audio_attention_mask"],
            ).logits
        said.append(int(logits[0, -1].argmax()))
    assert prediction.output == processor.tokenizer.decode(said, skip_special_tokens=False)


def test_spans_cut_the_values_out_of_the_text() -> None:
    values = {"SpeechActivity": "True", "Gender": "female", "Transcript": " hello"}
    for layout in (COMPACT_LAYOUT, PUBLISHED_LAYOUT):
        text = layout.render(values)
        spans = value_spans(layout, values)
        assert {field: text[start:stop] for field, (start, stop) in spans.items()} == values


def test_a_checkpoint_without_instructions_is_read_by_place(tmp_path: Path) -> None:
    model, processor, clips = taught_speechllm()
    predictor = TeacherForcedPredictor(model, processor, "taught")
    assert "at the places of the gold values" in predictor.describe()["protocol"]
    for number in range(len(clips)):
        values = taught_values(number)
        speech = values["SpeechActivity"]
        labels = {f: values[f] for f in LABEL_FIELDS} if speech else {}
        clip = Clip(
            str(number),
            tmp_path / "none",
            "taught",
            speech=speech,
            transcript=values["Transcript"] if speech else None,
            labels=labels,
        )
        audio = Audio(clips[number][None], 16000)
        said = predictor.predict_clips([clip], [audio])[0].values
        expected = {"SpeechActivity": speech, **labels}
        if speech:
            expected["Transcript"] = values["Transcript"]
        assert {field: said[field] for field in expected} == expected


def test_a_run_is_labelled_as_what_it_is(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import speechmeta.models.speechllm as package

    loaded = tiny_speechllm(layout=PUBLISHED_LAYOUT)
    monkeypatch.setattr(package, "load_model", lambda *a, **k: loaded, raising=False)
    report = evaluate(dataset, model="tiny", teacher_forced=True, output=tmp_path / "out")
    assert report["decoding"] == "teacher-forced"
    assert "wer" not in report
    assert report["mean_utterance_wer"] >= 0
    assert report["utterances"] == 3
    assert report["labels"]["SpeechActivity"]["n"] == 5
    for name in ("report.md", "report.html"):
        assert "TEACHER-FORCED DIAGNOSTIC" in (tmp_path / "out" / name).read_text()
    assert evaluate is evaluate_function


def test_an_answer_is_read_or_empty() -> None:
    assert read_answer('<s>{  "Gender": "male",   "Age": "young", }</s>') == {
        "Gender": "male",
        "Age": "young",
    }
    assert read_answer('{"Transcript": "a "quoted" word"}') == {}
    assert read_answer("nothing") == {}


def test_scores_by_hand() -> None:
    def record(
        name: str, reference: dict[str, Value], prediction: dict[str, Value], error: str | None
    ) -> Record:
        return Record(
            name, name, "set", None, 1.0, 0.1, reference, prediction, {}, {}, None, (), error
        )

    records = [
        record("a", {"Transcript": "One, two", "Gender": "Male"},
               {"Transcript": "one, three", "Gender": "male"}, None),
        record("b", {"Transcript": "a b c d", "Gender": "Male"},
               {"Transcript": "NA", "Gender": "NA"}, None),
        record("c", {"Transcript": "x", "Gender": "Male"}, {}, "broken"),
        record("d", {"Transcript": "", "SpeechActivity": False}, {"SpeechActivity": False}, None),
    ]  # fmt: skip
    scores = score_teacher_forced(records)
    # A mean of rates, not a rate of sums; commas are part of words; failures count as 1.
    assert scores["mean_utterance_wer"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert scores["labels"]["Gender"] == {"accuracy": pytest.approx(1 / 3), "n": 3}
    assert scores["labels"]["SpeechActivity"] == {"accuracy": 1.0, "n": 1}
    assert (scores["errors"], scores["empty_references"]) == (1, 1)
