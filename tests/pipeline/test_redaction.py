"""Redaction: what is private is replaced, what is not stays."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmeta.audio.limits import Limits
from speechmeta.errors import AudioError
from speechmeta.pipeline.redaction import redact, redact_report, redact_words
from speechmeta.pipeline.redaction.audio import Cover, write_redacted
from speechmeta.pipeline.redaction.numbers import is_card
from speechmeta.schema import (
    AudioInfo,
    CallReport,
    Coverage,
    ModelInfo,
    RedactedSpan,
    SpeakerMeta,
    Turn,
    Word,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("my card is 4242 4242 4242 4242.", "my card is [CARD]."),
        ("4242-4242-4242-4242", "[CARD]"),
        ("it is 4242424242424242, thanks", "it is [CARD], thanks"),
        ("american express 3782 822463 10005", "american express [CARD]"),
        # Fails the check digit, and is too long for a telephone number.
        ("number 4242 4242 4242 4243", "number [DIGITS]"),
        ("call +1 (555) 010-4477 today", "call [PHONE] today"),
        ("call 555-0104 today", "call [PHONE] today"),
        ("call 020 7946 0958", "call [PHONE]"),
        ("write to jo.smith+x@example.co.uk please", "write to [EMAIL] please"),
        ("it's john dot smith at example dot com", "it's [EMAIL]"),
        ("mail support at big shop dot co dot uk now", "mail [EMAIL] now"),
        ("four two four two four two four two", "[DIGITS]"),
        ("my number is oh seven double five three nine", "my number is [DIGITS]"),
        ("triple eight four", "[DIGITS]"),
        ("pin: Four, two. Four - two!", "pin: [CODE]!"),
        ("nineteen eighty four", "[DIGITS]"),
        ("that is 4 2 4 2", "that is [DIGITS]"),
        ("four two uh four two", "[DIGITS]"),
        ("forty one eleven eleven eleven eleven eleven eleven eleven", "[CARD]"),
        ("two fives three sixes one", "[DIGITS]"),
        ("4111\u20131111\u20131111\u20131111", "[CARD]"),
        ("4111, 1111, 1111, 1112 yes", "[DIGITS] yes"),
        ("four\u200b two sev\u200ben one", "[DIGITS]"),
        ("four for two won ate three", "[DIGITS]"),
        ("the cvv is 319", "the cvv is [CODE]"),
        ("319 is the security code", "[CODE] is the security code"),
        ("sort code 20-00-00", "sort code [SORT_CODE]"),
        ("social security number 123-45-6789", "social security number [SSN]"),
        ("born on the third of May nineteen eighty", "born on the [DATE_OF_BIRTH]"),
        ("my postcode is SW1A 1AA", "my postcode is [POSTCODE]"),
        ("postcode s w one a one a a", "postcode [POSTCODE]"),
        ("pay GB29 NWBK 6016 1331 9268 19", "pay [IBAN]"),
        ("it's j o h n dot smith at gmail dot com thanks", "it's [EMAIL] thanks"),
        ("john smith at gmail dot com", "[EMAIL]"),
        ("order #42718", "order [DIGITS]"),
        ("five five five oh one oh four and jo@example.com", "[DIGITS] and [EMAIL]"),
        ("one 2 three 4", "[DIGITS]"),
        ("it is 4242, 4242, 4242, 4242, thanks", "it is [CARD], thanks"),
        ("4, 2, 4, 2", "[DIGITS]"),
        ("in 2019, call 555-0104, please", "in 2019, call [PHONE], please"),
    ],
)
def test_private_text_is_replaced(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "i have two cats and one dog",
        "one of the two",
        "in 1984 we had 300 clients",
        "in 2019, 2020, 12 of them",
        "it costs 12.50 or 1,200 pounds",
        "oh no one told me",
        "i will be at home at nine",
        "look at that dot over there",
        "one moment, two minutes, three times a day",
        "order 66 of 2024",
        "between ten and twenty people",
        "two hundred and twenty five pounds",
        "between nine thirty to five thirty we are open",
        "it costs $45.99 or 1,200 pounds",
        "300, 400 and 500 megabit plans",
        "press one for sales, two for support, three for billing",
        "version 2.4.1 is out",
        "on March 3rd 2024",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


def test_a_card_number_needs_its_check_digit() -> None:
    assert is_card("4242424242424242")
    assert is_card("378282246310005")
    assert not is_card("4242424242424241")
    assert not is_card("42")


def words(text: str) -> list[Word]:
    return [
        Word(word=word, start=float(index), end=index + 0.5, probability=0.9 - index / 100)
        for index, word in enumerate(text.split())
    ]


def test_words_of_a_find_become_one() -> None:
    found = redact_words(words("my pin is four two four two, okay"))
    assert [word.word for word in found] == ["my", "pin", "is", "[CODE],", "okay"]
    assert (found[3].start, found[3].end) == (3.0, 6.5)
    assert found[3].probability == pytest.approx(0.84)
    assert redact_words([]) == []


def test_words_and_transcript_agree() -> None:
    text = "call 555 0104 or jo.smith at example dot com, pin one two three four."
    assert " ".join(word.word for word in redact_words(words(text))) == redact(text)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (
            [("c", "four two seven"), ("a", "okay"), ("c", "one nine two")],
            ["[DIGITS]", "okay", "[DIGITS]"],
        ),
        (
            [("c", "four two seven"), ("a", "four two seven, okay"), ("c", "nine one one")],
            ["[DIGITS]", "[DIGITS], okay", "[DIGITS]"],
        ),
        (
            [("c", "four two seven five"), ("c", "no, sorry, six")],
            ["[DIGITS]", "no, sorry, [DIGITS]"],
        ),
        (
            [("a", "your security code?"), ("c", "three one nine")],
            ["your security code?", "[CODE]"],
        ),
        (
            [("a", "date of birth please"), ("c", "third of may nineteen eighty")],
            ["date of birth please", "[DATE_OF_BIRTH]"],
        ),
        (
            [("c", "my email is john smith"), ("c", "at gmail dot com")],
            ["my email is [EMAIL]", "[EMAIL]"],
        ),
        ([("a", "for two people"), ("c", "at seven")], ["for two people", "at seven"]),
    ],
)
def test_what_goes_over_turns(parts: list[tuple[str, str]], expected: list[str]) -> None:
    report = redact_report(report_of(*((3.0 * i, *part) for i, part in enumerate(parts))))
    assert [turn.meta.transcript for turn in report.turns] == expected


DIGIT_NAMES = "zero one two three four five six seven eight nine".split()


@settings(deadline=None, max_examples=60)
@given(
    digits=st.lists(st.integers(0, 9), min_size=7, max_size=16),
    between=st.lists(
        st.text("uhmyeaok,.-\u2013\u2026\u200b ;:/", max_size=6), min_size=16, max_size=16
    ),
)
def test_no_separator_lets_a_number_through(digits: list[int], between: list[str]) -> None:
    text = "".join(
        f"{DIGIT_NAMES[digit]} {gap} " for digit, gap in zip(digits, between, strict=False)
    )
    assert not re.search(r"\b(?:" + "|".join(DIGIT_NAMES) + r")\b", redact(text))


def test_times_of_what_was_said_are_given() -> None:
    report = redact_report(report_of((0.0, "c", "my pin is four two seven one, thanks")))
    assert report.redactions is not None
    (span,) = report.redactions
    assert (span.turn, span.mark) == (0, "[CODE]")
    assert span.start == pytest.approx(0.3)
    assert span.end == pytest.approx(0.7)
    without = redact_report(report_of((0.0, "c", "my pin is four two seven one")), keep_words=False)
    assert without.turns[0].words is None
    assert without.redactions == [*report.redactions]


@pytest.mark.parametrize("filling", ["silence", "beep"])
def test_sound_of_what_was_said_is_covered(filling: Cover, tmp_path: Path) -> None:
    rate = 8000
    loud = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 4 * rate)).astype(np.float32)
    source, target = tmp_path / "call.wav", tmp_path / "clean.wav"
    soundfile.write(source, loud.T, rate, subtype="PCM_16")
    span = RedactedSpan(turn=0, start=1.0, end=2.0, mark="[CODE]")
    with target.open("wb") as file:
        write_redacted(source, file, [span], filling)
    before, _ = soundfile.read(source, dtype="float32")
    after, read_rate = soundfile.read(target, dtype="float32")
    assert (read_rate, after.shape) == (rate, before.shape)
    first, last = int(0.75 * rate), int(2.25 * rate)
    np.testing.assert_allclose(after[:first], before[:first], atol=1e-4)
    np.testing.assert_allclose(after[last:], before[last:], atol=1e-4)
    covered = after[first:last]
    assert np.abs(covered).max() <= (0.0 if filling == "silence" else 0.101)
    assert (
        abs(np.corrcoef(covered[:, 0], before[first:last, 0])[0, 1] if covered.any() else 0) < 0.1
    )


def test_the_sound_is_read_as_it_was_analysed(tmp_path: Path) -> None:
    source = tmp_path / "call.rec"
    source.write_bytes(bytes([0x80, 0xFF] * 8000))  # mu-law: loud left, silent right
    with (tmp_path / "clean.wav").open("wb") as file:
        write_redacted(source, file, [], raw="codec=mulaw,channels=2")
    samples, rate = soundfile.read(tmp_path / "clean.wav")
    assert (rate, samples.shape) == (8000, (8000, 2))
    assert np.abs(samples[:, 0]).min() > 0.9
    assert not samples[:, 1].any()
    with pytest.raises(AudioError, match="--max-hours"):
        write_redacted(source, io.BytesIO(), [], raw="codec=mulaw", limits=Limits(max_hours=1e-4))


def test_report_has_nothing_left() -> None:
    text = "my card is 4242 4242 4242 4242 okay"
    turn = Turn(
        start=0.0,
        end=9.0,
        channel=0,
        speaker="a",
        meta=SpeakerMeta.model_validate({"SpeechActivity": True, "Transcript": text}),
        words=words(text),
    )
    report = CallReport(
        audio=AudioInfo(path="x.wav", duration=9.0, sample_rate=8000, channels=1),
        model=ModelInfo(name="m", architecture="a", device="cpu", dtype="float32"),
        turns=[turn],
        coverage=Coverage(speech_seconds=9.0, non_speech_seconds=0.0, skipped_seconds=0.0),
    )
    clean = redact_report(report)
    assert "4242" not in clean.model_dump_json(by_alias=True)
    assert clean.turns[0].meta.fields == ("SpeechActivity", "Transcript")
    assert clean.turns[0].meta.transcript == "my card is [CARD] okay"
    assert report.turns[0].meta.transcript == text


def report_of(*turns: tuple[float, str, str]) -> CallReport:
    """A report of turns of 2 s: (start, speaker, transcript), its words with times."""
    return CallReport(
        audio=AudioInfo(path=None, duration=60.0, sample_rate=8000, channels=2),
        model=ModelInfo(name="m", architecture="a", device="cpu", dtype="float32"),
        turns=[
            Turn(
                start=start,
                end=start + 2.0,
                channel=0,
                speaker=speaker,
                meta=SpeakerMeta.model_validate({"Transcript": text}),
                words=[
                    Word(
                        word=word,
                        start=start + index / 10,
                        end=start + index / 10 + 0.1,
                        probability=1,
                    )
                    for index, word in enumerate(text.split())
                ],
            )
            for start, speaker, text in turns
        ],
        coverage=Coverage(speech_seconds=1.0, non_speech_seconds=1.0, skipped_seconds=0.0),
    )


def test_numbers_that_go_on_in_the_next_turn() -> None:
    report = redact_report(
        report_of(
            (0.0, "customer", "It is 4242."),
            (2.5, "agent", "Yes."),
            (3.0, "customer", "4242."),
            (6.0, "customer", "4242. 4242, that is it."),
            (20.0, "agent", "so 4242"),
            (24.0, "agent", "and two of us"),
            (40.0, "agent", "4242 4242"),
        )
    )
    texts = [turn.meta.transcript for turn in report.turns]
    assert texts == [
        "It is [CARD].", "Yes.", "[CARD].", "[CARD], that is it.", "so 4242", "and two of us",
        "[PHONE]",
    ]  # fmt: skip
    for turn in report.turns:
        assert " ".join(word.word for word in turn.words or []) == turn.meta.transcript
    # Long after, the same digits are another number.
    apart = redact_report(report_of((0.0, "a", "it is four two"), (14.0, "a", "four two")))
    assert [turn.meta.transcript for turn in apart.turns] == ["it is four two", "four two"]
    near = redact_report(report_of((0.0, "a", "it is four two"), (3.0, "a", "four two")))
    assert [turn.meta.transcript for turn in near.turns] == ["it is [DIGITS]", "[DIGITS]"]


@pytest.mark.parametrize("piece", ["_a", "a.", "1.2-", "a dot ", "a@", "four ", "1, "])
def test_repetitions_take_no_time(piece: str) -> None:
    # A decoder that repeats itself must not stop a run: some patterns took seconds or for ever.
    begun = time.process_time()
    redact("x" + piece * (4000 // len(piece)))
    assert time.process_time() - begun < 10.0
