"""Replaces card and phone numbers, e-mail addresses and spelt-out digits in transcripts.

Speech recognisers write numbers as digits or as words, so both are looked for: a Luhn-valid
run of 12 to 19 digits is a card, 7 to 15 digits a phone number, four or more digits in
words any number that is read out. Who reads a number out pauses, so a speaker's turns are
looked at together. Nothing of what is replaced is kept or logged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from speechmeta.schema import CallReport, Turn, Word

CARD, PHONE, EMAIL, DIGITS = "[CARD]", "[PHONE]", "[EMAIL]", "[DIGITS]"

CARD_LENGTHS = range(12, 20)
PHONE_LENGTHS = range(7, 16)

FEWEST_DIGITS = 4
"""Spoken digits in a row from which they are replaced; fewer are a count or a year's part."""

TOGETHER_SECONDS = 5.0
"""A number or address may go on in the speaker's next turn if that begins within this time."""

COMMA_CARD_LENGTH = 13
"""Fewest digits of a card whose groups are divided by commas, as lists of years are, too."""

_DIGIT_WORDS = {
    "zero": 1,
    "oh": 1,
    "o": 1,
    "nought": 1,
    "naught": 1,
    "nil": 1,
    "one": 1,
    "two": 1,
    "three": 1,
    "four": 1,
    "five": 1,
    "six": 1,
    "seven": 1,
    "eight": 1,
    "nine": 1,
    "niner": 1,
    "ten": 2,
    "eleven": 2,
    "twelve": 2,
    "thirteen": 2,
    "fourteen": 2,
    "fifteen": 2,
    "sixteen": 2,
    "seventeen": 2,
    "eighteen": 2,
    "nineteen": 2,
}
_TENS = {"twenty", "thirty", "forty", "fourty", "fifty", "sixty", "seventy", "eighty", "ninety"}
_UNITS = {"one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}
_MULTIPLES = {"double": 2, "triple": 3, "treble": 3, "quadruple": 4}
_FILLERS = {"uh", "um", "er", "dash", "hyphen", "space"}

# The look back lets a long word be tried once, not from each of its letters.
_EMAIL = re.compile(
    r"(?<![\w.+%-])[\w.+%-]+\s?@\s?[\w-]+(?:\s?\.\s?[\w-]+)+",
)
_MAIL_ENDS = r"com|net|org|edu|gov|info|biz|co|io|de|uk|fr|eu|us|in|au|ca|ie|nz|za"
# "john dot smith at example dot com": the part before "at" reaches back over dots, dashes and
# underscores that are spoken, and over one plain word.
_SPOKEN_EMAIL = re.compile(
    r"\b\w+(?:(?:\s(?:dot|period|underscore|dash|hyphen|plus)\s|[.-])\w+){0,8}"
    r"\s(?:at|@)\s\w+(?:[\s-]\w+){0,2}?"
    rf"(?:(?:\s(?:dot|point)\s|\s?\.\s?)(?:{_MAIL_ENDS}))+\b",
    re.IGNORECASE,
)
# Digits in groups: at most two separators in between, never a decimal point in a sentence.
_NUMBER = re.compile(r"(?<![\w.])(?:\+\s?)?\(?\d(?:(?:,\s|[\s().\-/]{0,2})\d)*(?![\w])")
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


@dataclass(frozen=True)
class Redaction:
    """Characters `start` to `end` of a text, and the mark that takes their place."""

    start: int
    end: int
    mark: str


def redact(text: str) -> str:
    """The text with every find replaced by its mark."""
    return _replaced(text, find_private(text))


def find_private(text: str) -> list[Redaction]:
    """What is to be replaced, in order and without overlap."""
    found: list[Redaction] = []
    for pattern in (_EMAIL, _SPOKEN_EMAIL):
        found += [Redaction(*match.span(), EMAIL) for match in pattern.finditer(text)]
    found += _written_numbers(text)
    found += _spoken_numbers(text)
    # The longer of two that overlap covers what the shorter would have left.
    chosen: list[Redaction] = []
    for item in sorted(found, key=lambda item: item.start - item.end):
        if all(item.end <= other.start or item.start >= other.end for other in chosen):
            chosen.append(item)
    return sorted(chosen, key=lambda item: item.start)


def find_in_parts(parts: Sequence[str]) -> list[list[Redaction]]:
    """What is to be replaced in each of several texts that belong together.

    A find that goes over from one text into the next is in both.
    """
    found = find_private(" ".join(parts))
    result: list[list[Redaction]] = []
    begin = 0
    for part in parts:
        end = begin + len(part)
        own = [
            replace(item, start=max(item.start, begin) - begin, end=min(item.end, end) - begin)
            for item in found
            if item.start < end and item.end > begin
        ]
        # A whole card or address is named as such, whatever digits the next text begins with.
        sure = [item for item in find_private(part) if item.mark in (CARD, EMAIL)]
        result.append(
            [next((known for known in sure if _covers(known, item)), item) for item in own]
        )
        begin = end + 1
    return result


def redact_words(words: Sequence[Word]) -> list[Word]:
    """Words with times: those of one find become one word from its first to its last."""
    return _replaced_words(words, find_private(_text_of(words)))


def _covers(first: Redaction, second: Redaction) -> bool:
    return first.start <= second.start and second.end <= first.end


def _replaced(text: str, found: Sequence[Redaction]) -> str:
    parts = []
    place = 0
    for item in found:
        parts += [text[place : item.start], item.mark]
        place = item.end
    return "".join([*parts, text[place:]])


def _text_of(words: Sequence[Word]) -> str:
    return " ".join(word.word for word in words)


def _replaced_words(words: Sequence[Word], found: Sequence[Redaction]) -> list[Word]:
    text = _text_of(words)
    places = []
    place = 0
    for word in words:
        places.append((place, place + len(word.word)))
        place += len(word.word) + 1
    result: list[Word] = []
    taken = 0
    for item in found:
        inside = [
            index
            for index, (start, end) in enumerate(places)
            if start < item.end and end > item.start
        ]
        first, last = inside[0], inside[-1]
        if first < taken:
            continue
        result += words[taken:first]
        # Punctuation on either side of the find stays, as it does in the transcript.
        before = text[places[first][0] : item.start]
        after = text[item.end : places[last][1]]
        result.append(
            Word(
                word=f"{before}{item.mark}{after}",
                start=words[first].start,
                end=words[last].end,
                score=min(word.score for word in words[first : last + 1]),
            )
        )
        taken = last + 1
    return [*result, *words[taken:]]


def redact_report(report: CallReport) -> CallReport:
    """The report with the transcripts and words of all turns redacted."""
    turns = list(report.turns)
    for group in _together(turns):
        texts = [turns[index].meta.transcript or "" for index in group]
        spoken = [_text_of(turns[index].words or []) for index in group]
        # A turn whose words have no times still stands between those that have.
        spoken = [own or text for own, text in zip(spoken, texts, strict=True)]
        in_texts, in_words = find_in_parts(texts), find_in_parts(spoken)
        for index, found, timed in zip(group, in_texts, in_words, strict=True):
            turns[index] = _redact_turn(turns[index], found, timed)
    return report.model_copy(update={"turns": turns})


def _together(turns: Sequence[Turn]) -> list[list[int]]:
    """Indices of each speaker's turns, divided where the speaker is silent for long."""
    groups: list[list[int]] = []
    current: dict[str, list[int]] = {}
    for index in sorted(range(len(turns)), key=lambda index: turns[index].start):
        turn = turns[index]
        group = current.get(turn.speaker)
        if group is None or turn.start - turns[group[-1]].end > TOGETHER_SECONDS:
            group = current[turn.speaker] = []
            groups.append(group)
        group.append(index)
    return groups


def is_card(digits: str) -> bool:
    """Whether digits have a card number's length and check digit (Luhn)."""
    if len(digits) not in CARD_LENGTHS:
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _redact_turn(turn: Turn, found: Sequence[Redaction], timed: Sequence[Redaction]) -> Turn:
    update: dict[str, object] = {}
    if turn.meta.transcript:
        # model_copy keeps which fields were asked for; the transcript is one of them.
        update["meta"] = turn.meta.model_copy(
            update={"transcript": _replaced(turn.meta.transcript, found)}
        )
    if turn.words:
        update["words"] = _replaced_words(turn.words, timed)
    return turn.model_copy(update=update)


def _written_numbers(text: str) -> Iterator[Redaction]:
    for match in _NUMBER.finditer(text):
        parts = [match.span()]
        if "," in match.group() and _mark_of_list(match.group()) is None:
            parts = [
                (match.start() + part.start(), match.start() + part.end())
                for part in re.finditer(r"[^,\s](?:[^,]*[^,\s])?", match.group())
            ]
        for start, end in parts:
            whole = text[start:end]
            mark = _mark_of_list(whole) if "," in whole else _mark_of(whole)
            if mark is not None:
                yield Redaction(start, end, mark)


def _mark_of(number: str) -> str | None:
    digits = re.sub(r"\D", "", number)
    if is_card(digits):
        return CARD
    if len(digits) in PHONE_LENGTHS:
        return PHONE
    return DIGITS if len(digits) > max(PHONE_LENGTHS) or _read_out(number) else None


def _mark_of_list(numbers: str) -> str | None:
    """Of numbers with commas between them: read out as one, or as good as nothing."""
    groups = re.findall(r"\d+", numbers)
    digits = "".join(groups)
    if len(digits) >= COMMA_CARD_LENGTH and is_card(digits):
        return CARD
    single = len(groups) >= FEWEST_DIGITS and all(len(group) == 1 for group in groups)
    return DIGITS if single else None


def _read_out(text: str) -> bool:
    """Whether four or more digits stand one by one: "4 2 4 2"."""
    groups = re.findall(r"\d+", text)
    return len(groups) >= FEWEST_DIGITS and all(len(group) <= 2 for group in groups)


def _spoken_numbers(text: str) -> Iterator[Redaction]:
    words = [(match.start(), match.end(), match.group().lower()) for match in _WORD.finditer(text)]
    index = 0
    while index < len(words):
        first = last = index
        digits = written = 0
        place = index
        while place < len(words):
            used, worth, figures = _number_at(words, place)
            if not used:
                # A filler joins two numbers, but neither begins nor ends a sequence.
                if digits and words[place][2] in _FILLERS and place - last <= 2:
                    place += 1
                    continue
                break
            digits += worth
            written += figures
            place += used
            last = place - 1
        if digits >= FEWEST_DIGITS and digits > written:
            yield Redaction(words[first][0], words[last][1], DIGITS)
            index = last + 1
        else:
            index = max(index + 1, last + 1 if digits else index + 1)


def _number_at(words: Sequence[tuple[int, int, str]], place: int) -> tuple[int, int, int]:
    """(words used, spoken digits, digits written as figures) of the number that begins here."""
    word = words[place][2]
    following = words[place + 1][2] if place + 1 < len(words) else ""
    if word in _MULTIPLES and (following in _DIGIT_WORDS or following.isdigit()):
        return 2, _MULTIPLES[word] * _DIGIT_WORDS.get(following, len(following)), 0
    if word in _TENS:
        return (2, 2, 0) if following in _UNITS else (1, 2, 0)
    if word in _DIGIT_WORDS:
        return 1, _DIGIT_WORDS[word], 0
    if word.isdigit():
        return 1, len(word), len(word)
    return 0, 0, 0
