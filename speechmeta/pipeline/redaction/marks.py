"""The marks that stand in place of what is private, and where it was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from speechmeta.pipeline.redaction.tokens import Token

CARD = "[CARD]"
PHONE = "[PHONE]"
EMAIL = "[EMAIL]"
DIGITS = "[DIGITS]"
CODE = "[CODE]"
IBAN = "[IBAN]"
SSN = "[SSN]"
SORT_CODE = "[SORT_CODE]"
BIRTH_DATE = "[DATE_OF_BIRTH]"
POSTCODE = "[POSTCODE]"


@dataclass(frozen=True)
class Find:
    """Characters `start` to `end` of an utterance's text, and the mark that takes their place."""

    utterance: int
    start: int
    end: int
    mark: str


def finds_of(tokens: Sequence[Token], first: int, last: int, mark: str) -> Iterator[Find]:
    """One find for each utterance that tokens `first` to `last` are in."""
    start = first
    for index in range(first, last + 1):
        if index == last or tokens[index + 1].utterance != tokens[index].utterance:
            yield Find(tokens[start].utterance, tokens[start].start, tokens[index].end, mark)
            start = index + 1
