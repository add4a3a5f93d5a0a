"""Checks of an answer's form, in the style of IFEval; each is exact and needs no judge."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from speechmeta.decoding.confined import confined
from speechmeta.errors import UsageError


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['\u2019-]\w+)*", text)


def _sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]


def _bullets(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.match(r"\s*[-*\u2022]\s+\S", line)]


def _paragraphs(text: str) -> list[str]:
    return [part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]


def _json(text: str) -> Any:
    """The answer as JSON; one code fence around it is allowed."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", text, re.DOTALL)
    return json.loads(fenced[1] if fenced else text)


def _is_json(text: str, value: object) -> bool:
    try:
        found = _json(text)
    except ValueError:
        return False
    if isinstance(value, list):
        return isinstance(found, dict) and set(value) <= set(found)
    return True


def _contains(text: str, value: Any) -> bool:
    wanted = [value] if isinstance(value, str) else list(value)
    return all(re.search(rf"(?<!\w){re.escape(w)}(?!\w)", text, re.IGNORECASE) for w in wanted)


def _excludes(text: str, value: Any) -> bool:
    unwanted = [value] if isinstance(value, str) else list(value)
    return not any(_contains(text, word) for word in unwanted)


def _matches(text: str, value: object) -> bool:
    # A suite's pattern may go over a text for ever, and cannot be interrupted here.
    try:
        return bool(confined("matches", str(value), text.strip()))
    except UsageError as error:
        raise UsageError(f"the pattern {str(value)[:80]!r}: {error.message}", error.hint) from error


_CHECKS: dict[str, Callable[[str, Any], bool]] = {
    "json": _is_json,
    "max_words": lambda text, n: len(_words(text)) <= int(n),
    "min_words": lambda text, n: len(_words(text)) >= int(n),
    "max_sentences": lambda text, n: 0 < len(_sentences(text)) <= int(n),
    "sentences": lambda text, n: len(_sentences(text)) == int(n),
    "bullets": lambda text, n: len(_bullets(text)) == int(n),
    "paragraphs": lambda text, n: len(_paragraphs(text)) == int(n),
    "contains": _contains,
    "excludes": _excludes,
    "starts_with": lambda text, value: text.lstrip().lower().startswith(str(value).lower()),
    "ends_with": lambda text, value: text.rstrip().lower().endswith(str(value).lower()),
    "uppercase": lambda text, _: any(c.isalpha() for c in text) and text == text.upper(),
    "lowercase": lambda text, _: any(c.isalpha() for c in text) and text == text.lower(),
    "no_commas": lambda text, _: "," not in text,
    "quoted": lambda text, _: len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"',
    "one_of": lambda text, value: (
        text.strip().rstrip(".").lower() in [str(v).lower() for v in value]
    ),
    "matches": _matches,
}
_WITHOUT_VALUE = ("json", "uppercase", "lowercase", "no_commas", "quoted")


def known_constraints() -> tuple[str, ...]:
    """The types of constraints."""
    return tuple(_CHECKS)


def check_constraint(constraint: Mapping[str, Any], text: str) -> bool:
    """Whether an answer keeps a constraint such as {"type": "max_words", "value": 30}.

    An empty answer keeps none.

    Raises:
        KeyError: the type is not known, or its value is missing.
        ValueError: the value is not what the type needs.
        UsageError: it is a pattern that is none, or that takes too long.
    """
    kind = constraint["type"]
    value = constraint.get("value") if kind in _WITHOUT_VALUE else constraint["value"]
    kept = _CHECKS[kind](text, value)
    return kept and bool(text.strip())
