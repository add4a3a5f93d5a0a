"""JSON that clients send: an object of whole characters, or a refusal in words."""

from __future__ import annotations

import json
from typing import Any

from speechmeta.errors import UsageError


def json_object(data: str | bytes | bytearray, name: str, example: str) -> dict[str, Any]:
    """The object that a text holds.

    Args:
        name: what the text is, in messages.
        example: an object such as is wanted.

    Raises:
        UsageError: it is no JSON, or no object; or it has halves of characters (`\\ud800`), which
            no file, database or answer takes.
    """
    try:
        found = json.loads(data)
    except RecursionError:
        raise UsageError(f"{name} is no JSON: it is nested too deeply", f"send {example}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} is no JSON: {error}", f"send {example}") from None
    except ValueError:
        # Python's limit on digits, in words for who set it.
        raise UsageError(
            f"{name} has a whole number of thousands of digits", f"send {example}"
        ) from None
    if not isinstance(found, dict):
        raise UsageError(f"{name} is no JSON object", f"send one such as {example}")
    of_whole_characters(found, name)
    return found


def of_whole_characters(found: dict[str, Any], name: str) -> None:
    """Sees that an object has no halves of characters.

    Raises:
        UsageError: it has some.
    """
    try:
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(
            f"{name} is no text: it has half a character", "send both halves, or neither"
        ) from None


__all__ = ["json_object", "of_whole_characters"]
