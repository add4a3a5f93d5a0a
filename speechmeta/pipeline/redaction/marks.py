"""The marks that stand in place of what is private, and where it was found."""

from __future__ import annotations

from dataclasses import dataclass

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

MARKS = (CARD, PHONE, EMAIL, DIGITS, CODE, IBAN, SSN, SORT_CODE, BIRTH_DATE, POSTCODE)
"""All of them; docs/conversation.md says what each is for."""


@dataclass(frozen=True)
class Find:
    """Characters `start` to `end` of an utterance's text, and the mark that takes their place."""

    utterance: int
    start: int
    end: int
    mark: str
