"""What is private in a conversation: all finders together, without overlaps."""

from __future__ import annotations

from collections.abc import Sequence

from speechmeta.pipeline.redaction.addresses import find_addresses
from speechmeta.pipeline.redaction.identifiers import find_asked, find_written
from speechmeta.pipeline.redaction.marks import EMAIL, IBAN, POSTCODE, Find
from speechmeta.pipeline.redaction.numbers import find_numbers
from speechmeta.pipeline.redaction.tokens import Utterance, tokens_of

_SURE = {EMAIL: 0, IBAN: 1, POSTCODE: 2}
"""Marks whose name holds where a number finds the same characters."""


def find_private(utterances: Sequence[Utterance]) -> list[list[Find]]:
    """What is to be replaced in each utterance, in order and without overlap.

    Args:
        utterances: of a whole conversation, in the order in which they began, whoever speaks: a
            number may be read out by two people and over many turns.
    """
    tokens = tokens_of(utterances)
    found = [
        *find_addresses(utterances, tokens),
        *find_written([utterance.text for utterance in utterances]),
        *find_asked(tokens),
        *find_numbers(utterances, tokens),
    ]
    result: list[list[Find]] = [[] for _ in utterances]
    for item in sorted(found, key=lambda item: (_SURE.get(item.mark, 3), item.start - item.end)):
        result[item.utterance] = _with(result[item.utterance], item)
    return [sorted(finds, key=lambda item: item.start) for finds in result]


def _with(known: list[Find], new: Find) -> list[Find]:
    """Overlapping finds become one that covers both, under the first one's name."""
    touching = [item for item in known if item.start < new.end and new.start < item.end]
    if not touching:
        return [*known, new]
    start = min(new.start, *(item.start for item in touching))
    end = max(new.end, *(item.end for item in touching))
    rest = [item for item in known if item not in touching]
    return [*rest, Find(new.utterance, start, end, touching[0].mark)]


def redact(text: str) -> str:
    """A text with everything private replaced by marks."""
    return replaced(text, find_private([Utterance(text)])[0])


def replaced(text: str, found: Sequence[Find]) -> str:
    """The text with each find's mark in place of its characters."""
    parts = []
    place = 0
    for item in found:
        parts += [text[place : item.start], item.mark]
        place = item.end
    return "".join([*parts, text[place:]])
