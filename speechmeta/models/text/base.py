"""What is needed of a text model, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Messages = Sequence[Mapping[str, str]]
"""`{"role": "system" | "user" | "assistant", "content": text}` each."""

Schema = Mapping[str, Any]
"""A JSON Schema."""


@dataclass(frozen=True)
class Answer:
    """What a text model wrote.

    Attributes:
        text: JSON, if the model kept to the schema.
        closed: whether the answer would have gone on: it was closed, or cut, at its budget's end.
    """

    text: str
    closed: bool = False


class TextModel(Protocol):
    """Answers conversations with JSON.

    Attributes:
        name: as it appears in a report; holds no key.
        context: tokens that a conversation and its answer may have together.
        attempts: how often it is asked before an answer that breaks its schema is a failure; a
            model that gives the same answer every time is asked once.
        confined: whether answers are held to the schema while they are written.
    """

    @property
    def name(self) -> str: ...

    @property
    def context(self) -> int: ...

    @property
    def attempts(self) -> int: ...

    @property
    def confined(self) -> bool: ...

    def size(self, text: str) -> int:
        """Tokens of a text in a conversation; rather too many than too few."""
        ...

    def plain(self, text: str) -> str:
        """JSON that says the same and holds nothing that the model takes for a control token."""
        ...

    def check(self, schema: Schema) -> None:
        """Sees that answers can be held to a schema.

        Raises:
            UsageError: they cannot.
        """
        ...

    def answer(self, messages: Messages, schema: Schema, budget: int) -> Answer:
        """Answers one conversation in at most `budget` tokens.

        Raises:
            SpeechMetaError: it does not.
        """
        ...


__all__ = ["Answer", "Messages", "Schema", "TextModel"]
