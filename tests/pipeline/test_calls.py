"""Calls from recording to report, with a decoder without weights: turns, channels, coverage."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audio_files import write_wav
from fakes import FakeEngine
from voices import SENTENCES, Call, make_call, speak, telephone

from speechmeta.audio.loading import resample
from speechmeta.decoding.record import DecodedRecord, TimedWord
from speechmeta.errors import AudioError, DecodingError, SpeechMetaError, UsageError
from speechmeta.pipeline.analyzer import Analyzer
from speechmeta.pipeline.options import CallOptions
from speechmeta.pipeline.plan import CallPlan, prepare_call
from speechmeta.pipeline.report import assemble_call
from speechmeta.schema import CallReport
from speechmeta.segmentation.turns import TurnOptions
from speechmeta.writers import WRITERS, HtmlWriter, get_writer

pytestmark = pytest.mark.slow

Sine = Callable[..., np.ndarray]


class ScriptedEngine(FakeEngine):
    """Says the given texts in turn; None is an error."""

    def __init__(self, texts: Sequence[str | None]) -> None:
        super().__init__()
        self._texts = list(texts)

    def decode(
        self, waveforms: Any, fields: Any = None, instruction: Any = None, word_times: bool = False
    ) -> Any:
        records = super().decode(waveforms, fields, instruction)
        results: list[DecodedRecord | SpeechMetaError] = []
        for record in records:
            text = self._texts.pop(0)
            if text is None:
                results.append(DecodingError("no memory", "use a smaller batch"))
                continue
            assert isinstance(record, DecodedRecord)
            record.values["Transcript"] = text
            results.append(record)
        return results


@pytest.fixture
def analyzer() -> Analyzer:
    return Analyzer.from_engine(FakeEngine())


def check_coverage(report: CallReport) -> None:
    found = report.coverage
    total = found.speech_seconds + found.non_speech_seconds + found.skipped_seconds
    total += found.missing_seconds
    assert total == pytest.approx(report.audio.duration * report.audio.channels, abs=1e-5)
    assert min(found.speech_seconds, found.non_speech_seconds, found.skipped_seconds) >= 0


def check_turns(report: CallReport, call: Call, names: Sequence[str], slack: float = 0.2) -> None:
    assert [turn.speaker for turn in report.turns] == [names[who] for _, _, who in call.truth]
    for turn, (start, end, _) in zip(report.turns, call.truth, strict=True):
        assert turn.start == pytest.approx(start, abs=slack)
        assert turn.end == pytest.approx(end, abs=slack)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_two_sided_call(analyzer: Analyzer, tmp_path: Path, rate: int) -> None:
    call = make_call(rate=rate)
    path = write_wav(tmp_path / "call.wav", call.waveform, rate)
    report = analyzer.analyze_call(path, roles=["agent", "customer"])
    check_turns(report, call, ["agent", "customer"])
    check_coverage(report)
    assert report.warnings == []
    assert [turn.channel for turn in report.turns] == [0, 1, 0, 1, 0, 1]
    assert all(turn.loudness_db is not None and -30 < turn.loudness_db < -10
               for turn in report.turns)  # fmt: skip
    talk = sum(end - start for start, end, _ in call.truth)
    assert report.coverage.speech_seconds == pytest.approx(talk, abs=1.0)
    assert report.conversation.talk_seconds == pytest.approx(talk, abs=1.0)
    assert report.conversation.interruptions == []
    assert report.conversation.response_latency_seconds == pytest.approx(1.0, abs=0.2)
    assert [speaker.speaker for speaker in report.speakers] == ["agent", "customer"]
    assert [speaker.turns for speaker in report.speakers] == [3, 3]
    shares = [speaker.talk_share or 0 for speaker in report.speakers]
    assert sum(shares) == pytest.approx(1.0, abs=1e-3)
    # Analysed again, nothing differs.
    assert analyzer.analyze_call(path, roles=["agent", "customer"]) == report


def test_turns_of_a_noisy_telephone_call_are_found(analyzer: Analyzer) -> None:
    call = make_call()
    noisy = telephone(0.2 * call.waveform, 8000)
    noisy += 0.002 * np.random.default_rng(0).standard_normal(noisy.shape).astype(np.float32)
    report = analyzer.analyze_call((noisy, 8000))
    check_turns(report, call, ["speaker_0", "speaker_1"], slack=0.3)


def test_crosstalk_makes_no_turns(analyzer: Analyzer) -> None:
    call = make_call()
    leak = np.roll(call.waveform[::-1], 200, axis=1) * 0.08
    noise = 1e-4 * np.random.default_rng(0).standard_normal(leak.shape)
    report = analyzer.analyze_call(((call.waveform + leak + noise).astype(np.float32), 8000))
    check_turns(report, call, ["speaker_0", "speaker_1"])
    check_coverage(report)


def test_interruption_is_found(analyzer: Analyzer) -> None:
    first, second = speak(SENTENCES[0], "rms"), speak(SENTENCES[1], "slt")
    rows = np.zeros((2, 8 * 8000), np.float32)
    rows[0, 8000 : 8000 + len(first)] = first
    begin = 8000 + len(first) - 8000
    rows[1, begin : begin + len(second)] = second
    report = analyzer.analyze_call((rows, 8000), roles=["agent", "customer"])
    assert [item.by for item in report.conversation.interruptions] == ["customer"]
    assert report.conversation.interruptions[0].at == pytest.approx(begin / 8000, abs=0.15)
    assert report.conversation.overlap_seconds == pytest.approx(1.0, abs=0.25)


def test_same_signal_twice_is_analysed_once(analyzer: Analyzer) -> None:
    call = make_call()
    mixed = call.waveform.sum(0)
    report = analyzer.analyze_call((np.stack([mixed, 0.5 * mixed]), 8000), speakers=2)
    check_turns(report, call, ["speaker_0", "speaker_1"])
    assert {turn.channel for turn in report.turns} == {0}
    assert any("same signal" in warning for warning in report.warnings)
    check_coverage(report)
    # The copy's speech is covered too.
    assert report.coverage.speech_seconds == pytest.approx(
        2 * sum(turn.end - turn.start for turn in report.turns), abs=0.01
    )


def test_a_dead_channel_is_left_out_with_a_warning(analyzer: Analyzer) -> None:
    call = make_call(voices=("rms",), turns=3)
    rows = np.concatenate([call.waveform, np.zeros_like(call.waveform)])
    report = analyzer.analyze_call((rows, 8000), roles=["agent", "customer"])
    check_turns(report, call, ["agent"])
    assert report.warnings == ["channel 1 carries no signal and was not analysed"]
    assert [speaker.speaker for speaker in report.speakers] == ["agent"]
    check_coverage(report)


def test_mono_mixes_and_split_keeps_copies(analyzer: Analyzer) -> None:
    call = make_call(turns=4)
    source = (call.waveform, 8000)
    mono = analyzer.analyze_call(source, channels="mono", speakers=1)
    assert [turn.speaker for turn in mono.turns] == ["speaker_0"] * 4
    assert mono.speakers[0].channel is None
    check_coverage(mono)
    copies = (np.repeat(call.waveform[:1], 2, 0), 8000)
    split = analyzer.analyze_call(copies, channels="split", roles=["a", "b"])
    assert [turn.speaker for turn in split.turns] == ["a", "b", "a", "b"]
    check_coverage(split)


def hold_music(seconds: float, rate: int) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    chords = [(220, 277, 330), (196, 247, 294), (175, 220, 262), (196, 247, 330)]
    wave = np.zeros_like(times)
    for index in range(int(seconds / 0.5)):
        part = (times >= index * 0.5) & (times < (index + 1) * 0.5)
        local = times[part] - index * 0.5
        for tone in chords[index % 4]:
            for harmonic in (1, 2, 3):
                wave[part] += np.exp(-4 * local) * np.sin(
                    2 * np.pi * tone * harmonic * local
                ) / harmonic  # fmt: skip
    scaled: np.ndarray = (0.3 * wave / np.abs(wave).max()).astype(np.float32)
    return scaled


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("kind", ["silence", "tone", "noise", "music", "click"])
@pytest.mark.parametrize("rows", [1, 2])
def test_nothing_is_said(analyzer: Analyzer, sine: Sine, kind: str, rate: int, rows: int) -> None:
    waves = {
        "silence": np.zeros(6 * rate, np.float32),
        "tone": sine(6, rate),
        "noise": (0.05 * np.random.default_rng(0).standard_normal(6 * rate)).astype(np.float32),
        "music": hold_music(6, rate),
        "click": np.eye(1, 6 * rate, 3 * rate, dtype=np.float32)[0],
    }
    report = analyzer.analyze_call((np.stack([waves[kind]] * rows), rate))
    assert report.turns == []
    assert report.coverage.speech_seconds == 0
    assert report.conversation.silence_seconds == 6.0
    check_coverage(report)
    for name in WRITERS:
        get_writer(name)


def test_smallest_and_broken_inputs(analyzer: Analyzer, tmp_path: Path) -> None:
    for samples in (1, 10, 300):
        report = analyzer.analyze_call((np.full(samples, 0.1, np.float32), 8000))
        assert report.turns == []
        check_coverage(report)
    with pytest.raises(AudioError, match="no samples"):
        analyzer.analyze_call((np.zeros((2, 0)), 8000))
    with pytest.raises(AudioError, match="NaN"):
        analyzer.analyze_call((np.array([0.0, np.nan]), 8000))
    empty = tmp_path / "empty.wav"
    empty.write_bytes(b"")
    with pytest.raises(AudioError, match="empty"):
        analyzer.analyze_call(empty)


def test_two_hundred_channels(analyzer: Analyzer) -> None:
    voice = speak(SENTENCES[0], "rms")
    random = np.random.default_rng(0)
    rows = 0.001 * random.standard_normal((200, len(voice) + 8000))
    rows[7, 4000 : 4000 + len(voice)] += voice
    rows[100:] = 0
    report = analyzer.analyze_call((rows.astype(np.float32), 8000))
    assert [turn.channel for turn in report.turns] == [7]
    assert any("channels 100-199 carry no signal" in warning for warning in report.warnings)
    check_coverage(report)


def test_long_speech_is_cut(analyzer: Analyzer) -> None:
    voice = np.concatenate([speak(text, "rms") for text in SENTENCES * 2])
    options = TurnOptions(max_turn_seconds=5.0, padding_seconds=0.1)
    report = analyzer.analyze_call((voice, 8000), turns=options, speakers=1)
    assert len(report.turns) >= len(voice) / 8000 / 5
    assert all(turn.end - turn.start <= 5.0 for turn in report.turns)
    assert report.coverage.non_speech_seconds < 1.0
    assert isinstance(analyzer.engine, FakeEngine)
    assert max(length for call in analyzer.engine.calls for length in call[0]) <= 5 * 16000
    # Cut for their length only, they are one run of talk.
    assert report.conversation.longest_monologue is not None
    whole = report.conversation.longest_monologue
    assert whole.end - whole.start == pytest.approx(len(voice) / 8000, abs=0.5)


def test_clips_are_the_recording(tmp_path: Path) -> None:
    call = make_call(rate=16000)
    path = write_wav(tmp_path / "call.wav", call.waveform, 16000)
    prepared = prepare_call(path, CallOptions())
    clips = list(prepared.clips())
    assert len(clips) == len(prepared.plan.clips) == 6
    for clip, (number, piece) in zip(clips, prepared.plan.clips, strict=True):
        turn = prepared.plan.turns[number]
        start, end = turn.pieces[piece]
        channel = prepared.plan.signals[turn.row].channel
        np.testing.assert_allclose(clip, call.waveform[channel, start:end], atol=1e-4)


def test_telephone_clips_are_resampled(tmp_path: Path) -> None:
    call = make_call(rate=8000)
    prepared = prepare_call((call.waveform, 8000), CallOptions())
    wide = resample(call.waveform, 8000, 16000)
    for clip, (number, _) in zip(prepared.clips(), prepared.plan.clips, strict=True):
        turn = prepared.plan.turns[number]
        start, end = turn.pieces[0]
        assert len(clip) == 2 * (end - start)
        inner = slice(2 * start + 400, 2 * end - 400)
        np.testing.assert_allclose(clip[400:-400], wide[turn.row, inner], atol=2e-3)


def test_long_recordings_are_decoded_again(
    analyzer: Analyzer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_wav(tmp_path / "call.wav", make_call().waveform, 8000)
    kept = analyzer.analyze_call(path)
    monkeypatch.setattr("speechmeta.audio.recording.KEEP_BYTES", 0)
    monkeypatch.setattr("speechmeta.audio.recording.BLOCK_WINDOWS", 40)
    again = analyzer.analyze_call(path)
    assert [(t.start, t.end, t.speaker) for t in again.turns] == [
        (t.start, t.end, t.speaker) for t in kept.turns
    ]
    assert again.coverage == kept.coverage
    with open(path, "rb") as file:
        assert analyzer.analyze_call(file).turns == again.turns
        assert file.tell() == 0


def test_a_file_that_shrinks_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechmeta.audio.recording.KEEP_BYTES", 0)
    path = write_wav(tmp_path / "call.wav", make_call().waveform, 8000)
    prepared = prepare_call(path, CallOptions())
    os.truncate(path, 100_000)
    with pytest.raises(AudioError, match="became shorter"):
        list(prepared.clips())


def test_a_stream_that_cannot_go_back(analyzer: Analyzer, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "call.wav", make_call().waveform, 8000)

    class Pipe(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self._data = io.BytesIO(data)

        def readable(self) -> bool:
            return True

        def seekable(self) -> bool:
            return False

        def readinto(self, buffer: Any) -> int:
            return self._data.readinto(buffer)

    pipe: Any = io.BufferedReader(Pipe(path.read_bytes()))
    assert len(analyzer.analyze_call(pipe).turns) == 6


def test_the_page_draws_what_was_heard(analyzer: Analyzer) -> None:
    call = make_call(turns=2)
    rows = np.clip(call.waveform, -1, 1)
    stream: Any = io.BytesIO((rows.T * 32767).astype("<i2").tobytes())
    stream.name = "call.rec"
    report = analyzer.analyze_call(stream, raw="codec=s16le,channels=2")
    assert len(report.turns) == 2
    assert report.peaks is not None
    assert report.peaks.duration == pytest.approx(call.waveform.shape[1] / 8000)
    assert HtmlWriter().text(report).count('class="wave"') == 2
    assert "peaks" not in report.model_dump_json()
    assert CallReport.model_validate_json(report.model_dump_json()).peaks is None
    assert report.model_copy(update={"warnings": []}).peaks == report.peaks


def test_without_voice_activity_a_channel_is_one_turn(analyzer: Analyzer) -> None:
    voice = np.concatenate([speak(text, "rms") for text in SENTENCES * 3])
    report = analyzer.analyze_call((voice, 8000), vad=False)
    assert len(report.turns) == 1
    assert report.turns[0].start == 0.0
    assert report.turns[0].end == pytest.approx(len(voice) / 8000, abs=1e-3)
    assert isinstance(analyzer.engine, FakeEngine)
    lengths = analyzer.engine.calls[0][0]
    assert len(lengths) > 1
    assert sum(lengths) == 2 * len(voice)
    assert max(lengths) <= 30 * 16000
    check_coverage(report)
    silent = analyzer.analyze_call((np.zeros((2, 8000)), 8000), vad=False)
    assert [turn.meta.speech_activity for turn in silent.turns] == [False]
    check_coverage(silent)


def test_a_turn_that_fails_is_reported(tmp_path: Path) -> None:
    source = (make_call(turns=3).waveform, 8000)
    report = Analyzer.from_engine(ScriptedEngine(["one", None, "three"])).analyze_call(source)
    assert [turn.meta.transcript for turn in report.turns] == ["one", "three"]
    assert report.coverage.skipped_seconds > 1.0
    assert any("could not be analysed: no memory" in warning for warning in report.warnings)
    check_coverage(report)
    with pytest.raises(DecodingError, match="no memory"):
        Analyzer.from_engine(ScriptedEngine([None, None, None])).analyze_call(source)


def test_redaction_reaches_every_output(tmp_path: Path) -> None:
    texts = ["my card is 4242 4242 4242 4242", "write to jo@example.com", "four two four two"]
    source = (make_call(turns=3).waveform, 8000)
    report = Analyzer.from_engine(ScriptedEngine(texts)).analyze_call(source, redact=True)
    assert [turn.meta.transcript for turn in report.turns] == [
        "my card is [CARD]",
        "write to [EMAIL]",
        "[DIGITS]",
    ]
    for name in WRITERS:
        file = tmp_path / f"out.{name}"
        get_writer(name).write(report, file)
        data = file.read_bytes()
        assert b"4242" not in data
        assert b"example.com" not in data
        assert b"four two" not in data
    plain = Analyzer.from_engine(ScriptedEngine(texts)).analyze_call(source)
    assert [turn.meta.transcript for turn in plain.turns] == texts


def heard(plan: CallPlan, clips: list[np.ndarray], words: list[TimedWord] | None) -> CallReport:
    engine = FakeEngine()
    items = engine.decode(clips)
    for item in items:
        assert isinstance(item, DecodedRecord)
        item.words = words
    return assemble_call(plan, items, engine.info, engine.label_sets)


def test_words_are_moved_to_the_time_of_the_file() -> None:
    options = CallOptions(word_times=True)
    prepared = prepare_call((make_call(turns=2).waveform, 8000), options)
    clips = list(prepared.clips())
    found = [TimedWord("2.5", 0.25, 0.5, 0.9)]
    report = heard(prepared.plan, clips, found)
    for turn, planned in zip(report.turns, prepared.plan.turns, strict=True):
        assert turn.words is not None
        assert turn.words[0].start == pytest.approx(planned.pieces[0][0] / 8000 + 0.25, abs=2e-3)
        assert turn.words[0].start >= turn.start
    unaligned = heard(prepared.plan, clips, None)
    assert all(turn.words is None for turn in unaligned.turns)
    assert all("words_not_aligned" in turn.flags for turn in unaligned.turns)


def test_plans_can_be_sent_to_other_processes() -> None:
    plan = prepare_call((make_call(turns=2).waveform, 8000), CallOptions()).plan
    assert pickle.loads(pickle.dumps(plan)) == plan
    with pytest.raises(DecodingError, match="2 clips"):
        assemble_call(plan, [], Analyzer.from_engine(FakeEngine()).info, {})


@pytest.mark.parametrize(
    "wrong",
    [
        {"roles": ()},
        {"roles": ("a", "a")},
        {"roles": ("a", "")},
        {"roles": "agent"},
        {"speakers": 0},
        {"channels": "both"},
        {"min_confidence": 2.0},
        {"fields": ("Gender",), "word_times": True},
    ],
)
def test_options_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        CallOptions(**wrong)


def test_roles_have_to_fit(analyzer: Analyzer) -> None:
    call = (make_call(turns=2).waveform, 8000)
    three = analyzer.analyze_call(call, roles=["a", "b", "c"])
    assert [speaker.speaker for speaker in three.speakers] == ["a", "b"]
    assert any("3 roles were given for 2 channels" in warning for warning in three.warnings)
    assert "no channel is left for c" in three.warnings
    report = analyzer.analyze_call(call, speakers=3)
    assert any("3 speakers were asked for" in warning for warning in report.warnings)
    with pytest.raises(UsageError, match="speaker-model"):
        prepare_call(call, CallOptions(channels="mono", speakers=2), None)
    alone = prepare_call(call, CallOptions(channels="mono"), None).plan
    assert any("treating the call as one speaker" in warning for warning in alone.warnings)
    # A call is worth more than the name of a model.
    other = analyzer.analyze_call(call, channels="mono", speaker_model="encoder")
    assert other.turns
    assert any("no encoder" in note and "voiceprint" in note for note in other.warnings)
