"""Dates of birth, IBANs and postcodes: what letters, months and places tell apart from numbers."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from speechmeta.pipeline.redaction.marks import BIRTH_DATE, IBAN, POSTCODE, Find, finds_of
from speechmeta.pipeline.redaction.tokens import Kind, Token

DATE_WORDS = 22
"""Words behind "date of birth" among which the date is looked for."""

IBAN_WORDS = 45
"""Words behind "IBAN" among which it is looked for."""

_MONTHS = set(
    "january february march april may june july august september october november december "
    "jan feb mar apr jun jul aug sep sept oct nov dec".split()
)
_ORDINALS = set(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth thirtieth "
    "st nd rd th".split()
)
_LINKS = {"of", "the", "and", "hundred", "thousand", "s", "a", "okay", "uh", "um", "in", "yes"}
_BORN = re.compile(
    r"\b(?:dates? of birth|birth ?dates?|birthday|d o b|dob|born (?:on|in|the))\b",
)
_POSTCODE_WORDS = re.compile(r"\b(?:post ?codes?|postal codes?|zip(?: codes?)?)\b")
_IBAN_WORDS = re.compile(r"\b(?:iban|i b a n|international bank account)\b")
_SPELLING = set(
    "alpha alfa bravo charlie delta echo foxtrot golf hotel india juliet juliett kilo lima mike "
    "november oscar papa quebec romeo sierra tango uniform victor whiskey whisky xray yankee "
    "zulu".split()
)

UK_POSTCODE = re.compile(
    r"\b(?:GIR\s?0AA|[A-Z]{1,2}\d[A-Z\d]?\s{0,2}\d[ABD-HJLNP-UW-Z]{2})\b", re.IGNORECASE
)
CANADIAN_POSTCODE = re.compile(r"\b[ABCEGHJ-NPRSTVXY]\d[A-Z][ -]?\d[A-Z]\d\b", re.IGNORECASE)
_IBAN = re.compile(r"\b[A-Z]{2}\s?\d{2}(?:[\s-]?[A-Z0-9]){11,30}\b", re.IGNORECASE)


def is_iban(text: str) -> bool:
    """Whether letters and figures are an IBAN by its check digits (ISO 13616)."""
    plain = re.sub(r"[^A-Za-z0-9]", "", text).upper()
    if not re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}", plain):
        return False
    moved = plain[4:] + plain[:4]
    return int("".join(str(int(char, 36)) for char in moved)) % 97 == 1


def find_written(texts: Sequence[str]) -> Iterator[Find]:
    """IBANs and postcodes as they are written."""
    for index, text in enumerate(texts):
        for match in _IBAN.finditer(text):
            end = match.end()
            # What follows may be words: the longest part whose check digits are right.
            while end - match.start() >= 15 and not is_iban(text[match.start() : end]):
                end -= 1
            if end - match.start() >= 15:
                yield Find(index, match.start(), end, IBAN)
        for pattern in (UK_POSTCODE, CANADIAN_POSTCODE):
            for match in pattern.finditer(text):
                yield Find(index, *match.span(), POSTCODE)


def find_asked(tokens: Sequence[Token]) -> Iterator[Find]:
    """Dates, postcodes and IBANs behind the word for what they are."""
    for pattern, find in ((_BORN, _date), (_POSTCODE_WORDS, _postcode), (_IBAN_WORDS, _iban)):
        for part in _answers(tokens, pattern):
            yield from find(tokens, range(part.start, min(part.stop, len(tokens))))


def unanswered(tokens: Sequence[Token]) -> int:
    """The first token that may be part of an answer whose rest is still to come."""
    return min(
        (
            part.start
            for pattern in (_BORN, _POSTCODE_WORDS, _IBAN_WORDS)
            for part in _answers(tokens, pattern)
            if part.stop > len(tokens)
        ),
        default=len(tokens),
    )


def _answers(tokens: Sequence[Token], pattern: re.Pattern[str]) -> Iterator[range]:
    """The tokens among which an answer is looked for, behind each word for what it is."""
    text, places = "", []
    for token in tokens:
        places.append(len(text))
        text += token.text + " "
    reach = IBAN_WORDS if pattern is _IBAN_WORDS else DATE_WORDS
    for match in pattern.finditer(text):
        behind = bisect_left(places, match.end())
        yield range(behind, behind + reach)


def _stretches(
    tokens: Sequence[Token], part: range, belongs: set[int], links: set[str]
) -> list[list[int]]:
    """Tokens that belong, joined where only a few links stand between them."""
    result: list[list[int]] = []
    for index in part:
        if index not in belongs:
            continue
        between = range(result[-1][-1] + 1, index) if result else range(0)
        linked = len(between) <= 3 and all(tokens[i].text in links for i in between)
        if result and linked:
            result[-1].append(index)
        else:
            result.append([index])
    return result


def _date(tokens: Sequence[Token], part: range) -> Iterator[Find]:
    belongs = {
        i
        for i in part
        if tokens[i].kind is Kind.NUMBER
        or tokens[i].text in _MONTHS
        or tokens[i].text in _ORDINALS
        or re.fullmatch(r"\d+(?:st|nd|rd|th)", tokens[i].text)
    }
    for stretch in _stretches(tokens, part, belongs, _LINKS):
        digits = "".join(tokens[i].digits for i in stretch)
        month = any(tokens[i].text in _MONTHS for i in stretch)
        # A month with a day or a year, a year of four digits, or day, month and year in figures.
        if (month and len(stretch) >= 2) or len(digits) >= 4 or len(stretch) >= 3:
            yield from finds_of(tokens, stretch[0], stretch[-1], BIRTH_DATE)
            return


def _spelt(tokens: Sequence[Token], part: range) -> set[int]:
    return {
        i
        for i in part
        if tokens[i].kind in (Kind.NUMBER, Kind.LETTER)
        or tokens[i].text in _SPELLING
        or (
            re.fullmatch(r"[a-z]{2}", tokens[i].text)
            and i > 0
            and tokens[i].before == ""
            and tokens[i - 1].kind is Kind.NUMBER
        )
    }


def _postcode(tokens: Sequence[Token], part: range) -> Iterator[Find]:
    yield from _first_spelt(tokens, part, 4, POSTCODE, {"for", "as", "in", "okay", "then", "space"})


def _iban(tokens: Sequence[Token], part: range) -> Iterator[Find]:
    yield from _first_spelt(tokens, part, 10, IBAN, {"for", "as", "in", "okay", "then", "yes"})


def _first_spelt(
    tokens: Sequence[Token], part: range, least: int, mark: str, links: set[str]
) -> Iterator[Find]:
    for stretch in _stretches(tokens, part, _spelt(tokens, part), links):
        characters = sum(max(1, len(tokens[i].digits)) for i in stretch)
        if characters >= least and any(tokens[i].digits for i in stretch):
            yield from finds_of(tokens, stretch[0], stretch[-1], mark)
            return
