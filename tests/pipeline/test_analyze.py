"""The Analyzer around a decoder without weights: audio in, results and errors out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audio_files import Sine, write_wav
from fakes import FakeEngine

from speechmeta.audio.limits import Limits
from speechmeta.audio.loading import AudioSource
from speechmeta.audio.types import FloatArray
from speechmeta.decoding.joining import join_records
from speechmeta.errors import AudioError, DecodingError, UsageError
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.schema import FIELDS, CallReport, SpeakerMeta

pytestmark = pytest.mark.slow


@pytest.fixture
def analyzer() -> Analyzer:
    return Analyzer.from_engine(FakeEngine())


def test_one_clip_gives_the_six_fields(analyzer: Analyzer, tmp_path: Path, sine: Sine) -> None:
    path = write_wav(tmp_path / "a.wav", sine(2, 8000, 300), 8000)
    meta = analyzer.generate_meta(path)
    assert meta.fields == FIELDS
    assert (meta.transcript, meta.gender) == ("2.0 seconds", "Male")
    assert meta.confidence["Gender"] == 0.9
    assert analyzer.generate_meta(path.read_bytes()) == meta
    assert analyzer.generate_meta((sine(2, 8000, 300), 8000)) == meta
    with open(path, "rb") as file:
        assert analyzer.generate_meta(file) == meta


def test_fields_and_confidence(analyzer: Analyzer, sine: Sine) -> None:
    tone = (sine(1, 16000), 16000)
    assert analyzer.generate_meta(tone, ["age", "Gender"]).fields == ("Gender", "Age")
    meta = analyzer.generate_meta(tone, min_confidence=0.7)
    assert (meta.gender, meta.age, meta.emotion) == ("Male", None, None)
    assert meta.confidence["Age"] == 0.6
    with pytest.raises(UsageError, match="Mood"):
        analyzer.generate_meta(tone, ["Mood"])
    with pytest.raises(UsageError, match="min_confidence"):
        analyzer.generate_meta(tone, min_confidence=1.5)


def test_a_clip_without_a_header_and_one_beyond_its_limits(
    analyzer: Analyzer, tmp_path: Path, sine: Sine
) -> None:
    clip = tmp_path / "clip.rec"
    clip.write_bytes((sine(2, 8000) * 32767).astype("<i2").tobytes())
    said = analyzer.generate_meta(clip, raw="codec=s16le,rate=8000").transcript
    assert said == "2.0 seconds"
    both: list[AudioSource] = [clip, (sine(1, 8000), 8000)]
    results = analyzer.generate_meta_batch(both, raw="*.rec: codec=s16le", limits=Limits())
    assert [item.transcript for item in results if isinstance(item, SpeakerMeta)] == [
        "2.0 seconds", "1.0 seconds"
    ]  # fmt: skip
    with pytest.raises(AudioError, match="--max-hours"):
        analyzer.generate_meta(clip, raw="codec=s16le", limits=Limits(max_hours=1 / 3600))
    with pytest.raises(UsageError, match="not understood"):
        analyzer.generate_meta_batch([], raw="codec=none")


def test_silence_has_no_transcript_and_no_labels(analyzer: Analyzer) -> None:
    meta = analyzer.generate_meta((np.zeros(16000), 16000))
    assert json.loads(meta.model_dump_json()) == {
        "SpeechActivity": False,
        "Transcript": "",
        "Gender": None,
        "Age": None,
        "Accent": None,
        "Emotion": None,
    }


@pytest.mark.parametrize(
    ("samples", "rate"),
    [
        (np.zeros(100), 8000),
        (np.zeros(1), 16000),
        (np.zeros(4000), 8000),
        (np.full(100, 0.25), 8000),
        (np.full(12_000, -0.25), 8000),
        (np.zeros((2, 300), np.int16), 44100),
        (0.1 * np.random.default_rng(0).standard_normal(390), 8000),
        (np.ones(40 * 16_000), 16000),
    ],
)
def test_what_can_hold_no_speech_never_reaches_a_model(samples: FloatArray, rate: int) -> None:
    engine = FakeEngine()
    analyzer = Analyzer.from_engine(engine)
    nothing = {
        "SpeechActivity": False, "Transcript": "",
        "Gender": None, "Age": None, "Accent": None, "Emotion": None,
    }  # fmt: skip
    meta = analyzer.generate_meta((samples, rate))
    assert json.loads(meta.model_dump_json()) == nothing
    assert meta.probabilities == {"SpeechActivity": {"True": 0.0, "False": 1.0}}
    gender = analyzer.generate_meta((samples, rate), ["Gender"])
    assert json.loads(gender.model_dump_json()) == {"Gender": None}
    report = analyzer.analyze_call((samples, rate), vad=False)
    assert {turn.meta.speech_activity for turn in report.turns} == {False}
    assert report.coverage.speech_seconds == 0
    assert engine.calls == []


def test_silence_beside_speech_in_one_batch(analyzer: Analyzer, sine: Sine) -> None:
    metas = analyzer.generate_meta_batch(
        [(np.zeros(100), 8000), (sine(1, 8000), 8000), (np.zeros(9), 8000), (sine(2, 8000), 8000)]
    )
    said = [item.transcript for item in metas if isinstance(item, SpeakerMeta)]
    assert said == ["", "1.0 seconds", "", "2.0 seconds"]


def test_channels_are_mixed_for_one_clip(analyzer: Analyzer, sine: Sine) -> None:
    both = np.stack([sine(1, 16000), np.zeros(16000, np.float32)])
    assert analyzer.generate_meta((both, 16000)).transcript == "1.0 seconds"


def test_batch_keeps_order_and_errors(analyzer: Analyzer, tmp_path: Path, sine: Sine) -> None:
    results = analyzer.generate_meta_batch(
        [
            (sine(1, 8000), 8000),
            tmp_path / "absent.wav",
            (sine(0.06, 16000), 16000),
            (sine(3, 44100, 1000), 44100),
        ]
    )
    assert isinstance(results[0], SpeakerMeta)
    assert isinstance(results[1], AudioError)
    assert isinstance(results[2], DecodingError)
    assert isinstance(results[3], SpeakerMeta)
    assert (results[0].transcript, results[3].transcript) == ("1.0 seconds", "3.0 seconds")
    assert (results[0].gender, results[3].gender) == ("Male", "Female")
    assert isinstance(analyzer.engine, FakeEngine)
    assert len(analyzer.engine.calls) == 1, "one batch for all"
    assert analyzer.generate_meta_batch([]) == []


def test_what_is_of_another_kind_is_refused_in_words(tmp_path: Path) -> None:
    analyzer = Analyzer.from_engine(FakeEngine())
    clips: tuple[Any, ...] = ("clip.wav", b"RIFF", tmp_path)
    for one in clips:
        with pytest.raises(UsageError, match="one clip"):
            analyzer.generate_meta_batch(one)
    given: Any = {"roles": ["agent"]}
    with pytest.raises(UsageError, match="type dict") as refused:
        analyzer.analyze_call((np.zeros(8000), 8000), given)
    assert "CallOptions" in refused.value.hint
    swapped: Any = (8000, np.zeros(8000))
    with pytest.raises(AudioError, match="positive whole number") as pair:
        analyzer.generate_meta(swapped)
    assert len(str(pair.value)) < 200


def test_errors_are_raised_for_a_single_clip(analyzer: Analyzer, sine: Sine) -> None:
    with pytest.raises(DecodingError):
        analyzer.generate_meta((sine(0.06, 16000), 16000))
    with pytest.raises(AudioError):
        analyzer.generate_meta("absent.wav")


def test_long_audio_is_heard_to_its_end(analyzer: Analyzer) -> None:
    rng = np.random.default_rng(0)
    wave = rng.uniform(-0.5, 0.5, 70 * 16000).astype(np.float32)
    wave[25 * 16000 : 26 * 16000] = 0
    meta = analyzer.generate_meta((wave, 16000))
    assert isinstance(analyzer.engine, FakeEngine)
    lengths = analyzer.engine.calls[0][0]
    assert sum(lengths) == len(wave)
    assert max(lengths) <= 30 * 16000
    assert 25 * 16000 <= lengths[0] <= 26 * 16000, "cut in the pause"
    assert meta.transcript == " ".join(f"{n / 16000:.1f} seconds" for n in lengths)


def test_joined_labels_are_weighted_by_length() -> None:
    engine = FakeEngine()
    low = np.sin(2 * np.pi * 200 * np.arange(16000) / 16000).astype(np.float32)
    high = np.sin(2 * np.pi * 2000 * np.arange(48000) / 16000).astype(np.float32)
    records = engine.decode([low, high, np.zeros(160000, np.float32)])
    joined = join_records(records, [1.0, 3.0, 10.0])  # type: ignore[arg-type]
    assert joined.values["Gender"] == "Female"
    assert joined.probabilities["Gender"]["Female"] == pytest.approx((0.1 + 3 * 0.9) / 4)
    assert joined.probabilities["SpeechActivity"]["True"] == pytest.approx(4 / 14)
    assert joined.values["SpeechActivity"] is True
    assert joined.values["Transcript"] == "1.0 seconds 3.0 seconds"
    assert joined.sampled_tokens == 3


def test_whole_call_without_turns(analyzer: Analyzer, tmp_path: Path, sine: Sine) -> None:
    rows = np.stack([sine(3, 8000, 300), sine(3, 8000, 1500)])
    path = write_wav(tmp_path / "call.wav", rows, 8000)
    report = analyzer.analyze_call(path, roles=["agent", "customer"], vad=False)
    assert [(t.start, t.end, t.channel, t.speaker) for t in report.turns] == [
        (0.0, 3.0, 0, "agent"),
        (0.0, 3.0, 1, "customer"),
    ]
    assert [t.meta.gender for t in report.turns] == ["Male", "Female"]
    assert report.turns[0].confidence["Gender"] == 0.9
    assert report.audio.sample_rate == 8000
    assert report.model.name == "fake"
    assert report.coverage.speech_seconds == 6.0
    assert report.coverage.non_speech_seconds == 0.0
    text = report.model_dump_json()
    assert CallReport.model_validate_json(text).model_dump_json() == text

    mono = analyzer.analyze_call(path, channels="mono", vad=False)
    assert len(mono.turns) == 1
    same = analyzer.analyze_call((np.stack([rows[0], rows[0]]), 8000), vad=False)
    assert len(same.turns) == 1, "one recording stored twice is one channel"


def test_damage_reaches_the_report(analyzer: Analyzer, tmp_path: Path, sine: Sine) -> None:
    data = write_wav(tmp_path / "a.wav", sine(2, 8000), 8000).read_bytes()
    report = analyzer.analyze_call(data[:20000], vad=False)
    assert any("cut short" in warning for warning in report.warnings)


def test_wrong_options_are_named(analyzer: Analyzer, sine: Sine) -> None:
    tone = (sine(1, 8000), 8000)
    with pytest.raises(UsageError, match="channels"):
        analyzer.analyze_call(tone, channels="both")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="Mood"):
        analyzer.analyze_call(tone, fields=["Mood"])
    with pytest.raises(UsageError, match="no option 'rolls'") as caught:
        analyzer.analyze_call(tone, rolls=["a"])  # type: ignore[call-arg]
    assert "roles" in caught.value.hint


def test_around_the_real_engine(tmp_path: Path, sine: Sine) -> None:
    """Random weights say nothing true, but every record validates and adds up."""
    from tiny import tiny_speechllm

    from speechmeta.models.speechllm.recognition import SpeechLLMRecognizer

    analyzer = Analyzer.from_engine(SpeechLLMRecognizer(*tiny_speechllm(seed=0), name="tiny"))
    rows = np.stack([sine(1, 8000), np.zeros(8000, np.float32)])
    report = analyzer.analyze_call(write_wav(tmp_path / "a.wav", rows, 8000), vad=False)
    assert report.model.architecture == "speechllm"
    assert (report.model.device, report.model.dtype) == ("cpu", "float32")
    assert CallReport.model_validate_json(report.model_dump_json()).turns
    covered = report.coverage.speech_seconds + report.coverage.non_speech_seconds
    assert covered + report.coverage.skipped_seconds == pytest.approx(2.0)
    metas = analyzer.generate_meta_batch([(rows[:1], 8000), (np.zeros(1), 16000)])
    assert all(isinstance(meta, SpeakerMeta) and meta.fields == FIELDS for meta in metas)
