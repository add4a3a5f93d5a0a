"""Words and numbers of a conversation, in the order in which they were said.

Recognisers write one number in many ways ("4242", "four two", "double four", "two fives",
"forty one eleven", "4-2-4-2"), so that every token says which digits it may stand for. Marks
between words are separators whatever they are: dashes of any kind, dots, spaces that cannot be
seen.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

DIGIT_WORDS = {
    "zero": "0", "oh": "0", "nought": "0", "naught": "0", "nil": "0", "zilch": "0",
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "niner": "9", "fife": "5", "tree": "3",
}  # fmt: skip
TEEN_WORDS = {
    "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14",
    "fifteen": "15", "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19",
}  # fmt: skip
TENS_WORDS = {
    "twenty": "20", "thirty": "30", "forty": "40", "fourty": "40", "fifty": "50", "sixty": "60",
    "seventy": "70", "eighty": "80", "ninety": "90",
}  # fmt: skip
HOMOPHONES = {
    "to": "2", "too": "2", "for": "4", "fore": "4", "ate": "8", "won": "1", "o": "0", "owe": "0",
    "tree": "3", "sex": "6", "sics": "6", "fore's": "4",
}  # fmt: skip
"""Words that are digits only where digits stand around them."""

MULTIPLES = {"double": 2, "triple": 3, "treble": 3, "quadruple": 4}
SCALES = {"hundred", "thousand", "million", "billion", "dozen", "grand"}
_PLURALS = {
    **{word + "s": digit for word, digit in DIGIT_WORDS.items() if word != "six"},
    "sixes": "6",
    "zeroes": "0",
}
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_CURRENCY = set("$\u00a3\u20ac\u00a5")


class Kind(Enum):
    """What a token is for the search."""

    WORD = "word"
    NUMBER = "number"
    HOMOPHONE = "homophone"
    LETTER = "letter"


@dataclass(frozen=True)
class Utterance:
    """What somebody said in one go.

    Attributes:
        text: the transcript.
        speaker: who; None if that is not known.
        start: in seconds; None if that is not known.
        end: in seconds.
    """

    text: str
    speaker: str | None = None
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Token:
    """One word or figure.

    Attributes:
        utterance: index of the utterance.
        start: first character of its text.
        end: behind the last one.
        text: lower case, without what cannot be seen.
        kind: what it is for the search.
        digits: what it may stand for, "" for words.
        amount: a figure that is a price, a time, a percentage or has a decimal point.
        before: what stands between the previous token of the utterance and this one.
    """

    utterance: int
    start: int
    end: int
    text: str
    kind: Kind
    digits: str = ""
    amount: bool = False
    before: str = ""


def tokens_of(utterances: Sequence[Utterance]) -> list[Token]:
    """All tokens, in the order of the utterances."""
    result: list[Token] = []
    for index, utterance in enumerate(utterances):
        result += _joined(_raw(index, utterance.text))
    return result


def _visible(text: str) -> tuple[str, list[int]]:
    """The text without format characters (zero-width spaces and the like), and where each of its
    characters stood."""
    places = [place for place, char in enumerate(text) if unicodedata.category(char) != "Cf"]
    return "".join(text[place] for place in places), places


def _raw(index: int, text: str) -> list[Token]:
    seen, places = _visible(text)
    result = []
    last = 0
    for match in _WORD.finditer(seen):
        first, behind = match.span()
        before, after = seen[last:first], seen[behind : behind + 2]
        last = behind
        # Letters and figures that stand together ("SW1A", "B12") are told apart.
        for part in re.finditer(
            r"\d+(?:st|nd|rd|th)\b|\d+|[^\W\d]+(?:['\u2019][^\W\d]+)*", match.group()
        ):
            start, end = first + part.start(), first + part.end()
            result.append(
                _token(
                    index,
                    places[start],
                    places[end - 1] + 1,
                    part.group(),
                    before if part.start() == 0 else "",
                    after if part.end() == len(match.group()) else "",
                )
            )
    return result


def _token(index: int, start: int, end: int, word: str, before: str, after: str) -> Token:
    text = word.lower().replace("\u2019", "'")
    if re.fullmatch(r"\d+(?:st|nd|rd|th)", text):
        return Token(index, start, end, text, Kind.WORD, "", False, before)
    if text[0].isdecimal():
        digits = "".join(str(unicodedata.decimal(char)) for char in text if char.isdecimal())
        priced = bool(before) and before[-1] in _CURRENCY
        amount = priced or after[:1] in ("%", "\u00b0")
        return Token(index, start, end, text, Kind.NUMBER, digits, amount, before)
    for table in (DIGIT_WORDS, TEEN_WORDS, TENS_WORDS):
        if text in table and text not in HOMOPHONES:
            return Token(index, start, end, text, Kind.NUMBER, table[text], False, before)
    if text in HOMOPHONES:
        return Token(index, start, end, text, Kind.HOMOPHONE, HOMOPHONES[text], False, before)
    kind = Kind.LETTER if len(text) == 1 else Kind.WORD
    return Token(index, start, end, text, kind, "", False, before)


def _joined(raw: Sequence[Token]) -> list[Token]:
    """Numbers of several words or figures as one token: "forty one", "double five", "1,200"."""
    result: list[Token] = []
    place = 0
    while place < len(raw):
        token, used = _number_from(raw, place)
        result.append(token)
        place += used
    return result


def _number_from(raw: Sequence[Token], place: int) -> tuple[Token, int]:
    token = raw[place]
    following = raw[place + 1] if place + 1 < len(raw) else None
    if following is None:
        return token, 1
    if token.text in MULTIPLES:
        target, used = following, 2
        digits = target.digits if len(target.digits) <= 2 else ""
        if target.kind in (Kind.NUMBER, Kind.HOMOPHONE) and digits:
            return _merged(token, target, MULTIPLES[token.text] * digits), used
    if token.kind is Kind.NUMBER and following.text in _PLURALS:
        count = int(token.digits)
        if 2 <= count <= 9:
            return _merged(token, following, _PLURALS[following.text] * count), 2
    if (
        token.text in TENS_WORDS
        and following.text in DIGIT_WORDS
        and following.digits != "0"
        and not following.before.strip(" -\u2010\u2011\u2013\u2014")
    ):
        return _merged(token, following, token.digits[0] + following.digits), 2
    if token.kind is Kind.NUMBER and token.text[0].isdecimal():
        return _figures_from(raw, place)
    return token, 1


def _figures_from(raw: Sequence[Token], place: int) -> tuple[Token, int]:
    """Prices, times, dates and thousands that several groups of figures make."""
    token = raw[place]
    groups = [token]
    while place + len(groups) < len(raw):
        after = raw[place + len(groups)]
        if after.kind is not Kind.NUMBER or after.before not in {".", ",", ":", "/", "-"}:
            break
        if not after.text[0].isdecimal():
            break
        groups.append(after)
    marks = "".join(group.before for group in groups[1:])
    lengths = [len(group.digits) for group in groups]
    amount = (
        (bool(marks) and set(marks) == {","} and lengths[0] <= 3 and set(lengths[1:]) == {3})
        or (marks == "." and lengths[0] <= 6 and lengths[1] <= 2)
        or (marks == ":" and lengths[0] <= 2 and lengths[1] == 2)
        or _is_date(groups, marks)
        or (marks == ",." and lengths[0] <= 3 and lengths[1] == 3 and lengths[2] == 2)
    )
    if not amount:
        return token, 1
    digits = "".join(group.digits for group in groups)
    first, last = groups[0], groups[-1]
    whole = "".join(group.before + group.text for group in groups).lstrip(first.before)
    return (
        Token(
            first.utterance,
            first.start,
            last.end,
            whole,
            Kind.NUMBER,
            digits,
            True,
            first.before,
        ),
        len(groups),
    )


def _is_date(groups: Sequence[Token], marks: str) -> bool:
    if marks not in {"//", "--", ".."} or len(groups) != 3:
        return False
    values = [int(group.digits) for group in groups]
    lengths = [len(group.digits) for group in groups]
    if lengths[0] == 4:
        values, lengths = values[::-1], lengths[::-1]
    if lengths[2] not in (2, 4) or max(lengths[:2]) > 2:
        return False
    year_fits = lengths[2] == 2 or 1900 <= values[2] <= 2099
    # Two figures each are a sort code as well, which dashes are written between.
    if lengths[2] == 2 and marks == "--":
        return False
    return year_fits and 1 <= min(values[:2]) <= 12 and 1 <= max(values[:2]) <= 31


def _merged(first: Token, last: Token, digits: str) -> Token:
    return Token(
        first.utterance,
        first.start,
        last.end,
        f"{first.text} {last.text}",
        Kind.NUMBER,
        digits,
        first.amount or last.amount,
        first.before,
    )
