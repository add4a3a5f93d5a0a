"""How much of a conversation that goes on cannot become private by what is still to be said.

A number is private for the digits that follow it, by whomever and in however many turns; an
address for the "at" that begins the next turn. The finders look over few words, so that what lies
further back stands, unless digits lead from there to here or a question is still to be answered.
"""

from __future__ import annotations

from collections.abc import Sequence

from speechmeta.pipeline.redaction.addresses import DOMAIN_WORDS, LOCAL_WORDS
from speechmeta.pipeline.redaction.identifiers import unanswered
from speechmeta.pipeline.redaction.numbers import GAP_WORDS_OTHERS
from speechmeta.pipeline.redaction.tokens import Kind, Utterance, tokens_of

REACH_WORDS = LOCAL_WORDS + DOMAIN_WORDS + 2
"""From words to come to the first word of an address that they end."""

CHAIN_WORDS = GAP_WORDS_OTHERS + 7
"""Between two numbers that may be one: the words between runs of digits, and at the end of each
run three that are digits only beside others ("to", "for")."""


def settled(utterances: Sequence[Utterance]) -> int:
    """How many of the first utterances whatever follows leaves as they are.

    Args:
        utterances: so far, in the order in which they began.
    """
    tokens = tokens_of(utterances)
    numbers = [index for index, token in enumerate(tokens) if token.kind is Kind.NUMBER]
    edge = min(len(tokens) - REACH_WORDS, unanswered(tokens))
    # A number beyond the edge is of one piece with those that stand near before it.
    for index in reversed(numbers):
        if index < edge - CHAIN_WORDS:
            break
        edge = min(edge, index - CHAIN_WORDS)
    open_ones = [token.utterance for token in tokens[max(0, edge) :]]
    return min(open_ones, default=0)


__all__ = ["CHAIN_WORDS", "REACH_WORDS", "settled"]
