"""Transcripts as they should be written: the true words in the original's case and marks."""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise

_END = ".?!"
_QUESTIONS = frozenset(
    "who what where when why how which whose is are was were do does did can could will would "
    "shall should may have has had isn't aren't don't doesn't didn't can't won't".split()
)
_MARKS = re.compile(r"^[^\w]+|[^\w]+$")


def _key(word: str) -> str:
    return _MARKS.sub("", word.lower().replace("\u2019", "'"))


def punctuated(words: str, hypothesis: str) -> str:
    """`words` with the case and the punctuation of a hypothesis that says nearly the same.

    A word that the hypothesis has otherwise, or lacks, is written in lower case; so are its
    neighbours' marks kept only where they stand on the right word.
    """
    true = words.lower().split()
    given = [word for word in hypothesis.replace("-", " ").split() if _key(word)]
    blocks = difflib.SequenceMatcher(None, true, [_key(word) for word in given], autojunk=False)
    written = list(true)
    for tag, start, end, other, other_end in blocks.get_opcodes():
        if tag == "equal":
            written[start:end] = given[other:other_end]
        elif tag == "replace" and end - start == other_end - other:
            for place in range(end - start):
                marks = re.search(r"[^\w]*$", given[other + place])
                written[start + place] += marks.group(0) if marks else ""
    return sentence(" ".join(written))


def sentence(text: str, question: bool | None = None) -> str:
    """Text that begins with a capital, ends with a mark, and has its "I" large.

    Args:
        text: of a transcript; the quotes of CSV files are taken away.
        question: whether it ends with a question mark where it has no mark; None: by its
            first word.
    """
    text = text.strip()
    if text[:1] == text[-1:] == '"' and '""' in text[1:-1]:
        text = text[1:-1].replace('""', '"').strip()
    text = re.sub(r"\bi(?=\b|')", "I", text)
    if not text:
        return text
    first = _key(text.split()[0])
    if text[-1] not in _END:
        asked = first in _QUESTIONS if question is None else question
        text = text.rstrip(",;:- ") + ("?" if asked else ".")
    start = re.search(r"\w", text)
    if start:
        text = text[: start.start()] + start.group(0).upper() + text[start.end() :]
    return re.sub(r"([.?!]\s+)([a-z])", lambda match: match[1] + match[2].upper(), text)


def proper_nouns(texts: Iterable[str]) -> dict[str, str]:
    """Words that are nearly always written with a capital inside sentences, by lower case."""
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        words = text.split()
        for before, word in pairwise(words):
            if before[-1] not in '.?!:"':
                stripped = _MARKS.sub("", word)
                forms[stripped.lower()][stripped] += 1
    return {
        key: form
        for key, counts in forms.items()
        for form, count in counts.most_common(1)
        if form != key and count >= 2 and count >= 0.8 * counts.total()
    }


def plainly_cased(words: str, nouns: Mapping[str, str]) -> str:
    """`words` as one sentence, for want of a hypothesis; names as `proper_nouns` has them."""
    return sentence(" ".join(nouns.get(word, word) for word in words.lower().split()))
