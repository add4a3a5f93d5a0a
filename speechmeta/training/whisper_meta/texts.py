"""The written target of every item whose words are known."""

from __future__ import annotations

from collections.abc import Sequence

from speechmeta.training.whisper_meta.items import Item
from speechmeta.training.whisper_meta.targets import (
    plainly_cased,
    proper_nouns,
    punctuated,
    sentence,
)
from speechmeta.training.whisper_meta.teacher import TeacherStore, lacks_case

_PLAIN_WORDS = 14
"""Transcripts without case that the original was not asked about are used up to this length:
longer ones have commas and sentences inside, which nothing here could place."""


def target_texts(items: Sequence[Item], teacher: TeacherStore) -> dict[str, str]:
    """Targets by item name; crops have none: what is said in them is cut off at both ends."""
    cased = [item.words for item in items if item.words and not lacks_case(item.words)]
    written = [answer.hypothesis for answer in teacher.answers.values() if answer.hypothesis]
    nouns = proper_nouns([*cased, *written])
    targets: dict[str, str] = {}
    known: dict[str, str] = {}
    waiting: list[Item] = []
    for item in items:
        answer = teacher.answers.get(item.name)
        hypothesis = answer.hypothesis if answer else None
        if item.words is None or item.kind == "crop":
            continue
        if not lacks_case(item.words):
            targets[item.name] = sentence(item.words)
        elif hypothesis:
            targets[item.name] = known[item.words] = _written(item.words, hypothesis)
        else:
            waiting.append(item)
    for item in waiting:
        words = item.words or ""
        if words in known:
            targets[item.name] = known[words]
        elif item.kind == "clip" and len(words.split()) <= _PLAIN_WORDS:
            targets[item.name] = plainly_cased(words, nouns)
    return targets


def _written(words: str, hypothesis: str) -> str:
    """The original's own writing where it says the same ("24" for "twenty four")."""
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normal = EnglishTextNormalizer({})
    if normal(words) == normal(hypothesis):
        return sentence(hypothesis)
    return punctuated(words, hypothesis)
