"""Redaction: what is private is replaced, what is not stays."""

from __future__ import annotations

import pytest

from speechmeta.redaction import is_card, redact, redact_report, redact_words
from speechmeta.schema import (
    AudioInfo,
    CallReport,
    Coverage,
    ModelInfo,
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
        ("pin: Four, two. Four - two!", "pin: [DIGITS]!"),
        ("nineteen eighty four", "[DIGITS]"),
        ("that is 4 2 4 2", "that is [DIGITS]"),
        ("four two uh four two", "[DIGITS]"),
        ("five five five oh one oh four and jo@example.com", "[DIGITS] and [EMAIL]"),
        ("one 2 three 4", "[DIGITS]"),
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
        "it costs 12.50 or 1,200 pounds",
        "oh no one told me",
        "i will be at home at nine",
        "look at that dot over there",
        "one moment, two minutes, three times a day",
        "order 66 of 2024",
        "between ten and twenty people",
        "two hundred and twenty five pounds",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


def test_check_digit() -> None:
    assert is_card("4242424242424242")
    assert is_card("378282246310005")
    assert not is_card("4242424242424241")
    assert not is_card("42")


def words(text: str) -> list[Word]:
    return [
        Word(word=word, start=float(index), end=index + 0.5, score=0.9 - index / 100)
        for index, word in enumerate(text.split())
    ]


def test_words_of_a_find_become_one() -> None:
    found = redact_words(words("my pin is four two four two, okay"))
    assert [word.word for word in found] == ["my", "pin", "is", "[DIGITS],", "okay"]
    assert (found[3].start, found[3].end) == (3.0, 6.5)
    assert found[3].score == pytest.approx(0.84)
    assert redact_words([]) == []


def test_words_and_transcript_agree() -> None:
    text = "call 555 0104 or jo.smith at example dot com, pin one two three four."
    assert " ".join(word.word for word in redact_words(words(text))) == redact(text)


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
