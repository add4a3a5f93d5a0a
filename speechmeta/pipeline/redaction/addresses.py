"""E-mail addresses, written, spoken or spelt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from speechmeta.pipeline.redaction.marks import EMAIL, Find, finds_of
from speechmeta.pipeline.redaction.tokens import Kind, Token, Utterance

LOCAL_WORDS = 14
"""Most words of the part before "at"; a spelt name has one a letter."""

DOMAIN_WORDS = 12
"""Most words of the part behind "at", its dots included."""

_ENDS = set(
    "com net org edu gov info biz co io de uk fr eu us in au ca ie nz za it es ch at nl be me "
    "app dev online".split()
)
_PROVIDERS = set(
    "gmail googlemail hotmail yahoo outlook icloud aol proton protonmail gmx live msn btinternet "
    "me mail".split()
)
_STOPS = set(
    "is its it's that's thats address email e mail to my me the be was an at are write contact "
    "send yes yeah okay ok sure so and or um uh well it on with under your his her their "
    "would will as please try confirm".split()
) - {"e"}
_JOINERS = {"dot", "period", "point", "underscore", "dash", "hyphen", "plus", "minus"}

# The look back lets a long word be tried once, not from each of its letters.
_WRITTEN = re.compile(r"(?<![\w.+%-])[\w.+%'-]+\s?@\s?[\w-]+(?:\s?\.\s?[\w-]+)*")


def find_addresses(utterances: Sequence[Utterance], tokens: Sequence[Token]) -> Iterator[Find]:
    """Addresses, each in one utterance, or over two when "at" begins the second."""
    for index, utterance in enumerate(utterances):
        for match in _WRITTEN.finditer(utterance.text):
            end = match.end()
            while end > match.start() and utterance.text[end - 1] in ".-":
                end -= 1
            yield Find(index, match.start(), end, EMAIL)
    for place, token in enumerate(tokens):
        if token.text != "at" and not token.before.rstrip().endswith("@"):
            continue
        first_of_domain = place + 1 if token.text == "at" else place
        last = _domain_end(tokens, first_of_domain)
        if last is None:
            continue
        first = _local_start(tokens, place)
        if first < place:
            yield from finds_of(tokens, first, last, EMAIL)


def _domain_end(tokens: Sequence[Token], place: int) -> int | None:
    """Last token of "example dot co dot uk" or of a well-known provider, from `place` on."""
    last = None
    words = 0
    index = place
    while index < min(len(tokens), place + DOMAIN_WORDS) and words < 4:
        token = tokens[index]
        dotted = token.before.strip() == "." and index > place
        if token.text in ("dot", "point", "period") or dotted:
            target = index if dotted else index + 1
            if target < len(tokens) and tokens[target].text in _ENDS and index > place:
                last = target
                index = target + 1
                words = 3
                continue
            if last is not None:
                break
        elif last is not None:
            break
        elif token.kind is not Kind.LETTER:
            words += 1
        index += 1
    if last is None and place < len(tokens) and tokens[place].text in _PROVIDERS - {"me", "mail"}:
        return place
    return last


def _local_start(tokens: Sequence[Token], at: int) -> int:
    first = at
    joined = False
    while first > 0 and at - first < LOCAL_WORDS:
        token = tokens[first - 1]
        # "... john smith" and, after a pause, "at gmail dot com".
        if first < at and token.utterance != tokens[first].utterance:
            break
        joins = token.text in _JOINERS or joined
        after = tokens[first].before if first < at else ""
        ends_sentence = bool(set(after) & set(",;:!?")) or (
            "." in after and after.strip() == "." and after != "."
        )
        if (token.text in _STOPS and not joins and not _spells(tokens, first - 1)) or (
            ends_sentence and not _spells(tokens, first - 1)
        ):
            break
        joined = token.text in _JOINERS
        first -= 1
    return first


def _spells(tokens: Sequence[Token], place: int) -> bool:
    return tokens[place].kind in (Kind.LETTER, Kind.NUMBER)
