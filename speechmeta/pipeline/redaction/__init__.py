"""Redaction: what must not leak is found however it is said, and replaced everywhere.

    redact("it's four two seven, okay, one nine two")   # "it's [DIGITS], okay, [DIGITS]"

`search` puts the finders together: `numbers` (what is read out), `addresses` (e-mail),
`identifiers` (dates of birth, IBANs, postcodes). `report` applies them to a call's report and
`audio` to its sound.
"""

from speechmeta.pipeline.redaction.report import redact_report, redact_turns, redact_words
from speechmeta.pipeline.redaction.search import find_private, redact
from speechmeta.pipeline.redaction.settled import settled
from speechmeta.pipeline.redaction.tokens import Utterance

__all__ = [
    "Utterance",
    "find_private",
    "redact",
    "redact_report",
    "redact_turns",
    "redact_words",
    "settled",
]
