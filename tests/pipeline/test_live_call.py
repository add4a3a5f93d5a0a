"""A call that goes on gives the turns of the file, whatever the pieces in which it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fakes import FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmeta.decoding.record import DecodedRecord
from speechmeta.errors import DecodingError, UsageError
from speechmeta.pipeline.live_call import (
    LiveCall,
    LiveModel,
    News,
    PartialWords,
    TurnEnded,
    TurnFailed,
)
from speechmeta.pipeline.options import CallOptions
from speechmeta.schema import CallReport
from speechmeta.segmentation import live_activity
from speechmeta.segmentation.turns import (
    FoundTurns,
    TurnOptions,
    find_turns,
    in_samples,
    speech_regions,
)
from speechmeta.segmentation.voice_activity import powers_of

RATE = 8000
WINDOW = 256

Waveform = npt.NDArray[np.float32]


def model() -> LiveModel:
    engine = FakeEngine()
    return LiveModel(engine.info, engine.label_sets, engine.thresholds, engine.fields)


class Told:
    """Speaks of speech as it was told: the probability of each window is in its samples."""

    def __init__(self, rate: int, channels: int) -> None:
        self._held = np.zeros((channels, 0), np.float32)

    def push(self, block: Waveform) -> Waveform:
        count = block.shape[1] // WINDOW
        found: Waveform = block[:, ::WINDOW][:, :count].copy()
        return found


@contextmanager
def told() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_activity, "SileroVad", Told)
        # Gains and offsets would change what the samples say.
        patch.setattr(live_activity.LiveActivity, "_refresh", lambda self, whole: None)
        yield


def samples(probabilities: npt.NDArray[np.float32], seed: int) -> Waveform:
    """Windows whose first sample is the probability, and whose others are quieter or louder."""
    loudness = np.random.default_rng(seed).uniform(0.01, 0.3, len(probabilities))
    wave = np.repeat(loudness, WINDOW).astype(np.float32)
    wave[::WINDOW] = probabilities
    return wave


def by_file(wave: Waveform, options: TurnOptions) -> FoundTurns:
    probabilities = wave[::WINDOW]
    regions = speech_regions(probabilities, options.threshold_at(RATE))
    runs = in_samples(regions, WINDOW, len(wave))
    levels = powers_of(wave[None], WINDOW // 4, WINDOW)[0]
    return find_turns(runs, levels, options, rate=RATE, hop=WINDOW // 4, samples=len(wave))


def taken(call: LiveCall, wave: Waveform, sizes: Sequence[int]) -> list[News]:
    """The call fed in pieces of these sizes, over and over; every clip answered at once."""
    news: list[News] = []

    def answer() -> None:
        for ask in call.asks():
            text = f"{len(ask.clip)} samples"
            values: dict[str, Any] = {"SpeechActivity": True, "Transcript": text}
            known = {name: values[name] for name in ask.fields if name in values}
            call.answer(ask.number, DecodedRecord(values=known))
        call.dropped()
        news.extend(call.news())

    at, turn = 0, 0
    while at < wave.shape[1]:
        call.push(wave[:, at : at + sizes[turn % len(sizes)]])
        at += sizes[turn % len(sizes)]
        turn += 1
        answer()
    call.finish()
    answer()
    return news


def spans(report: CallReport) -> list[tuple[float, float, str | None]]:
    return [(turn.start, turn.end, turn.meta.transcript) for turn in report.turns]


LENGTHS = st.integers(1, 60)
LONG = st.integers(200, 900)


@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(
        st.tuples(st.one_of(LENGTHS, LENGTHS, LONG), st.sampled_from([0.0, 0.25, 0.5, 0.9])),
        min_size=1,
        max_size=12,
    ),
    sizes=st.lists(st.sampled_from([1, 160, 256, 1000, 8000, 50000]), min_size=1, max_size=3),
    pause=st.sampled_from([0.3, 0.6, 1.0]),
    seed=st.integers(0, 3),
)
def test_turns_are_those_of_the_file(
    parts: list[tuple[int, float]], sizes: list[int], pause: float, seed: int
) -> None:
    lengths = [count for count, _ in parts]
    probabilities = np.repeat([level for _, level in parts], lengths).astype(np.float32)
    wave = samples(probabilities, seed)
    if max(sizes) == 1:
        sizes = [256]
    options = TurnOptions(min_pause_seconds=pause, padding_seconds=0.1)
    with told():
        call = LiveCall(
            CallOptions(turns=options, speakers=1), model(), rate=RATE, channels=1, partials=False
        )
        taken(call, wave[None], sizes)
        report = call.report()
    file = by_file(wave, options)
    found = [
        (round(span.start / RATE, 3), round(span.end / RATE, 3),
         f"{2 * (span.clip_end - span.clip_start)} samples")
        for span in file.spans
    ]  # fmt: skip
    assert spans(report) == found
    assert report.coverage.skipped_seconds == pytest.approx(file.skipped_samples / RATE)


def test_memory_does_not_grow_with_the_call() -> None:
    with told():
        call = LiveCall(CallOptions(speakers=1), model(), rate=RATE, channels=1)
        most = 0
        for second in range(600):
            level = 0.9 if second % 7 < 5 or 200 < second < 300 else 0.0
            wave = samples(np.full(32, level, np.float32), second)
            taken_in_passing(call, wave)
            most = max(most, call._activity.audio.shape[1])
    # A turn that is cut at its length and a quarter, its context, and half a second to compare.
    assert most < 25 * RATE
    assert len(call._by_bounds) < 20


def taken_in_passing(call: LiveCall, wave: Waveform) -> None:
    call.push(wave[None])
    for ask in call.asks():
        call.answer(ask.number, DecodedRecord(values={"SpeechActivity": True}))
    call.dropped()
    call.news()


def voiced(seconds: float, silent: float) -> Waveform:
    probabilities = np.repeat([0.9, 0.0], [round(seconds / 0.032), round(silent / 0.032)])
    return samples(probabilities.astype(np.float32), 1)


def test_a_turn_is_asked_for_before_its_pause_has_passed() -> None:
    with told():
        call = LiveCall(CallOptions(speakers=1), model(), rate=RATE, channels=1, partials=False)
        call.push(voiced(2.0, 0.4)[None])
        early = call.asks()
        assert len(early) == 1
        assert call.turns == 0
        call.answer(early[0].number, DecodedRecord(values={"SpeechActivity": True}))
        assert call.news() == []
        call.push(np.zeros((1, 4 * WINDOW * 3), np.float32))
        # The pause has passed: the turn is there, and is not asked for again.
        (told_of,) = call.news()
        assert isinstance(told_of, TurnEnded)
        assert call.asks() == []


def test_speech_that_goes_on_makes_the_early_clip_words_in_progress() -> None:
    with told():
        call = LiveCall(CallOptions(speakers=1), model(), rate=RATE, channels=1)
        call.push(voiced(0.8, 0.4)[None])
        (early,) = call.asks()
        call.push(voiced(0.5, 0.0)[None])
        call.answer(early.number, DecodedRecord(values={"Transcript": "well"}))
        (partial,) = call.news()
        assert isinstance(partial, PartialWords)
        assert partial.transcript == "well"
        call.finish()
        (whole,) = [ask for ask in call.asks() if ask.number != early.number]
        assert len(whole.clip) > len(early.clip)


def test_words_in_progress_that_come_too_late_are_not_told() -> None:
    with told():
        call = LiveCall(CallOptions(speakers=1), model(), rate=RATE, channels=1)
        call.push(voiced(2.0, 0.0)[None])
        partial = call.asks()
        assert partial
        call.push(voiced(0.0, 3.0)[None])
        assert set(call.dropped()) == {ask.number for ask in partial}
        for ask in partial:
            call.answer(ask.number, DecodedRecord(values={"Transcript": "late"}))
        assert not [item for item in call.news() if isinstance(item, PartialWords)]


def test_a_turn_that_fails_is_told_and_counted() -> None:
    with told():
        call = LiveCall(CallOptions(speakers=1), model(), rate=RATE, channels=1)
        call.push(np.concatenate([voiced(1.0, 1.0), voiced(1.0, 1.0)])[None])
        call.finish()
        first, second = call.asks()
        call.answer(first.number, DecodingError("it broke"))
        assert not call.complete
        call.answer(second.number, DecodedRecord(values={"SpeechActivity": True}))
        failed, ended = call.news()
        assert isinstance(failed, TurnFailed)
        assert isinstance(ended, TurnEnded)
        report = call.report()
    assert len(report.turns) == 1
    assert report.coverage.skipped_seconds > 0.9
    assert "it broke" in report.warnings[-1]


SENTENCES = (
    "my number is four two seven",
    "one nine two",
    "okay",
    "write to john smith",
    "at gmail dot com please",
    "what is your date of birth",
    "the third of May nineteen eighty",
    "thank you very much for all that you did for me today and have a nice day you all",
    "your postcode please",
    "S W one A",
    "two B B",
    "it is 4242 4242",
    "and the code on the back is",
    "three one nine",
    "we have two cats and a dog",
)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=14))
def test_no_turn_is_told_before_it_is_known_what_is_private(texts: list[str]) -> None:
    """What was told of a turn is what the report says of it."""
    with told():
        options = CallOptions(redact=True, speakers=1)
        call = LiveCall(options, model(), rate=RATE, channels=1)
        news: list[News] = []
        said = iter(texts)
        for _ in texts:
            call.push(voiced(1.0, 1.0)[None])
            for ask in call.asks():
                values: dict[str, Any] = {"SpeechActivity": True, "Transcript": next(said)}
                call.answer(ask.number, DecodedRecord(values=values))
            news += call.news()
        before_the_end = len(news)
        call.finish()
        report = call.report()
        news += call.news()
    assert all(isinstance(item, TurnEnded) for item in news)
    turns = sorted(
        (item.turn for item in news if isinstance(item, TurnEnded)), key=lambda turn: turn.start
    )
    assert turns == report.turns
    assert before_the_end <= len(texts)


def test_turns_are_told_while_the_call_goes_on_though_numbers_are_redacted() -> None:
    with told():
        call = LiveCall(CallOptions(redact=True, speakers=1), model(), rate=RATE, channels=1)
        for _ in range(6):
            call.push(voiced(1.0, 1.0)[None])
            for ask in call.asks():
                values: dict[str, Any] = {"SpeechActivity": True, "Transcript": SENTENCES[7]}
                call.answer(ask.number, DecodedRecord(values=values))
        assert len(call.news()) >= 3


@pytest.mark.parametrize(
    ("rate", "channels", "options", "part"),
    [
        (44100, 1, CallOptions(), "44100"),
        (8000, 3, CallOptions(), "3 channels"),
        (8000, 1, CallOptions(vad=False), "voice activity"),
        (8000, 2, CallOptions(roles=("a", "b", "c")), "3 roles"),
        (8000, 2, CallOptions(speakers=3), "3 speakers"),
        (8000, 1, CallOptions(roles=("a", "b")), "cannot tell speakers apart"),
    ],
)
def test_what_cannot_be_had_of_a_live_call(
    rate: int, channels: int, options: CallOptions, part: str
) -> None:
    with pytest.raises(UsageError, match=part):
        LiveCall(options, model(), rate=rate, channels=channels)


def test_what_was_heard_of_a_turn_is_the_draft_of_the_rest() -> None:
    with told():
        call = LiveCall(CallOptions(speakers=1), model(), rate=RATE, channels=1)
        call.push(voiced(1.6, 0.0)[None])
        (partial,) = call.asks()
        assert partial.draft is None
        call.answer(partial.number, DecodedRecord(values={"Transcript": "so far"}))
        call.push(voiced(0.4, 0.5)[None])
        (early,) = call.asks()
        assert early.draft == "so far"
        # The next turn begins anew.
        call.push(voiced(0.0, 0.6)[None])
        call.push(voiced(1.6, 0.0)[None])
        (other,) = [ask for ask in call.asks() if ask.optional]
        assert other.draft is None


def test_a_pause_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    make = LiveCall._turns

    def counted(call: LiveCall, *args: Any) -> Any:
        made.append(args)
        return make(call, *args)

    monkeypatch.setattr(LiveCall, "_turns", counted)
    with told():
        call = LiveCall(CallOptions(speakers=1), model(), rate=RATE, channels=1, partials=False)
        wave = voiced(2.0, 0.5)
        for first in range(0, len(wave), 160):
            call.push(wave[None, first : first + 160])
        assert len(call.asks()) == 1
        assert len(made) == 1


def test_a_call_says_when_it_will_soon_ask() -> None:
    with told():
        call = LiveCall(CallOptions(speakers=1), model(), rate=RATE, channels=1, partials=False)
        seen = []
        for wave in (voiced(1.024, 0.0), voiced(0.0, 0.128), voiced(0.0, 0.128), voiced(0.5, 0.0)):
            call.push(wave[None])
            seen.append((call.pausing, len(call.asks())))
    assert seen == [(False, 0), (True, 0), (False, 1), (False, 0)]


def test_no_words_in_progress_are_asked_of_a_model_without_time() -> None:
    with told():
        call = LiveCall(CallOptions(speakers=1), model(), rate=RATE, channels=1)
        call.spare = False
        call.push(voiced(2.0, 0.0)[None])
        assert call.asks() == []
        call.spare = True
        call.push(voiced(0.2, 0.0)[None])
        (partial,) = call.asks()
        assert partial.optional


def test_the_detector_looks_when_a_pause_has_lasted() -> None:
    """Not before it matters, and then at once."""
    with told():
        options = CallOptions(speakers=1, turns=TurnOptions(min_pause_seconds=0.6))
        call = LiveCall(options, model(), rate=RATE, channels=1, partials=False)
        call.push(voiced(2.0, 0.0)[None])
        ended = call._activity.windows * WINDOW
        looked, early, closed = 0, None, None
        while closed is None:
            before = call._activity.windows
            call.push(np.zeros((1, WINDOW), np.float32))
            ended_for = call._activity.samples - ended
            looked += call._activity.windows > before
            if early is None and call.asks():
                early = ended_for
            if call.turns:
                closed = ended_for
        assert early is not None
        assert 0.2 * RATE <= early < 0.2 * RATE + 3 * WINDOW
        assert 0.6 * RATE <= closed < 0.6 * RATE + 3 * WINDOW
        assert looked < 10


def test_a_busy_model_may_leave_words_in_progress_out() -> None:
    with told():
        call = LiveCall(CallOptions(speakers=1), model(), rate=RATE, channels=1)
        call.push(voiced(2.0, 0.0)[None])
        (partial,) = call.asks()
        assert partial.optional
        call.answer(partial.number, None)
        assert call.news() == []
        # The next ones are asked for again.
        call.push(voiced(1.5, 0.0)[None])
        (again,) = call.asks()
        assert again.optional
        assert again.number != partial.number
