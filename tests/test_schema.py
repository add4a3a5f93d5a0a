"""The result types: what they print, accept and refuse, and their JSON Schema."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from speechmeta.errors import AudioError, SpeechMetaError, UsageError
from speechmeta.schema import (
    FIELDS,
    AudioInfo,
    CallReport,
    Coverage,
    LabelEstimate,
    ModelInfo,
    SpeakerMeta,
    SpeakerSummary,
    Turn,
    Word,
    check_fields,
)

FULL = {
    "SpeechActivity": True,
    "Transcript": 'Yes, "I" got it.',
    "Gender": "Female",
    "Age": "Young",
    "Accent": "America",
    "Emotion": "Neutral",
}
SILENT = {
    "SpeechActivity": False,
    "Transcript": "",
    "Gender": None,
    "Age": None,
    "Accent": None,
    "Emotion": None,
}


def report(*turns: Turn) -> CallReport:
    return CallReport(
        audio=AudioInfo(path="a.wav", duration=3.0, sample_rate=8000, channels=2, codec="gsm"),
        model=ModelInfo(name="m", architecture="speechllm", device="cpu", dtype="float32"),
        turns=list(turns),
        speakers=[
            SpeakerSummary(
                speaker="agent",
                channel=0,
                talk_seconds=1.5,
                turns=1,
                gender=LabelEstimate(value="Male", confidence=0.9),
                emotion={"Neutral": 1.0},
            )
        ],
        coverage=Coverage(speech_seconds=4.0, non_speech_seconds=2.0, skipped_seconds=0.0),
    )


def turn(values: dict[str, Any], **more: Any) -> Turn:
    return Turn(
        start=0.5,
        end=2.0,
        channel=1,
        speaker="agent",
        meta=SpeakerMeta.model_validate(values),
        confidence={"Gender": 0.97},
        **more,
    )


def test_six_keys_in_order() -> None:
    meta = SpeakerMeta.model_validate(FULL)
    assert json.loads(meta.model_dump_json()) == FULL
    assert list(json.loads(meta.model_dump_json())) == list(FIELDS)
    assert meta.model_dump(mode="json") == FULL


@pytest.mark.parametrize(
    "values", [FULL, SILENT, {"Transcript": "hi"}, {"SpeechActivity": True, "Emotion": None}]
)
def test_meta_round_trip(values: dict[str, Any]) -> None:
    meta = SpeakerMeta.model_validate(values)
    assert meta.fields == tuple(values)
    text = meta.model_dump_json()
    assert json.loads(text) == values
    assert SpeakerMeta.model_validate_json(text) == meta
    jsonschema.validate(json.loads(text), SpeakerMeta.model_json_schema())


def test_python_names_and_probabilities_stay_out_of_the_json() -> None:
    meta = SpeakerMeta(gender="Male", probabilities={"Gender": {"Male": 0.8, "Female": 0.2}})
    assert json.loads(meta.model_dump_json()) == {"Gender": "Male"}
    assert meta.confidence == {"Gender": 0.8}
    assert meta.value("Gender") == "Male"


@pytest.mark.parametrize(
    "values",
    [
        {**FULL, "Gender": "Other"},
        {**FULL, "Mood": "Happy"},
        {**FULL, "SpeechActivity": "True"},
        {**FULL, "SpeechActivity": False},
        {**SILENT, "Transcript": "hi"},
        {**SILENT, "Emotion": "Happy"},
    ],
)
def test_what_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SpeakerMeta.model_validate(values)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, SpeakerMeta.model_json_schema())


def test_label_sets_of_a_checkpoint() -> None:
    sets = {"Gender": ["f", "m"], "Age": [], "Accent": [], "Emotion": []}
    meta = SpeakerMeta.model_validate({"Gender": "f"}, context={"label_sets": sets})
    assert meta.gender == "f"
    with pytest.raises(ValidationError, match="not one of f, m"):
        SpeakerMeta.model_validate({"Gender": "Female"}, context={"label_sets": sets})


def test_schema_has_only_the_six_fields() -> None:
    for mode in ("validation", "serialization"):
        schema = SpeakerMeta.model_json_schema(mode=mode)
        assert list(schema["properties"]) == list(FIELDS)
        assert schema["additionalProperties"] is False
        assert schema["properties"]["Gender"]["enum"] == ["Female", "Male", None]
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("values", [FULL, SILENT, {"Gender": None}, {"Transcript": "hi"}])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"flags": ["transcript_loop"], "loudness_db": -21.5},
        {"words": [Word(word="hi", start=0.5, end=0.7, probability=0.9)]},
    ],
)
def test_turn_and_report_round_trip(values: dict[str, Any], more: dict[str, Any]) -> None:
    original = turn(values, **more)
    data = json.loads(original.model_dump_json())
    assert list(data)[:4] == ["start", "end", "channel", "speaker"]
    assert list(data)[4 : 4 + len(values)] == list(values)
    assert "meta" not in data
    assert Turn.model_validate(data) == original
    assert Turn.model_validate(data).model_dump_json() == original.model_dump_json()

    document = report(original, original)
    text = document.model_dump_json()
    assert CallReport.model_validate_json(text) == document
    assert json.loads(text)["turns"] == [data, data]
    jsonschema.validate(json.loads(text), CallReport.model_json_schema())


def test_the_report_fits_its_own_schema() -> None:
    schema = CallReport.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    properties = schema["$defs"]["Turn"]["properties"]
    assert list(properties)[:10] == ["start", "end", "channel", "speaker", *FIELDS]
    assert "meta" not in properties
    document = json.loads(report(turn(FULL)).model_dump_json())
    document["turns"][0]["Gender"] = "Other"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)
    document["turns"][0] = {**json.loads(turn(SILENT).model_dump_json()), "Transcript": "hi"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_fields_are_known_in_any_case_and_order() -> None:
    assert check_fields(None) == FIELDS
    assert check_fields(["emotion", "Transcript"]) == ("Transcript", "Emotion")
    assert check_fields("Gender, age") == ("Gender", "Age")
    for bad in (["Mood"], [], "Gender,Mood"):
        with pytest.raises(UsageError) as caught:
            check_fields(bad)
        assert "SpeechActivity" in caught.value.hint


def test_errors_cross_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(AudioError("a\n  b", "do this")))
    assert isinstance(error, SpeechMetaError)
    assert (error.message, error.hint, str(error)) == ("a b", "do this", "a b (do this)")
