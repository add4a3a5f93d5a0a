"""Conversations as callers write them, checked and brought into one form.

    [{"role": "system", "content": "..."},
     {"role": "audio", "content": "call.wav"},
     {"role": "user", "content": "Is the customer angry? Why?"}]

`content` of an audio message is anything that `audio.loading.load_audio` takes; `text` may
hold its transcript. DeSTA2.5's own form is taken as well: `<|AUDIO|>` in a content and a list
`audios` of {"audio": ..., "text": ...} beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from speechmeta.errors import UsageError
from speechmeta.models.desta2.processing_desta2 import ChatTurn

ROLES = ("system", "audio", "user", "assistant")


@dataclass(frozen=True)
class AudioInput:
    """An audio of a conversation.

    Attributes:
        source: what `load_audio` takes.
        text: its transcript where the caller knows it; None lets Whisper transcribe.
    """

    source: Any
    text: str | None = None


@dataclass(frozen=True)
class Conversation:
    """Turns for the chat template, and the audios that they name by index."""

    turns: tuple[ChatTurn, ...]
    audios: tuple[AudioInput, ...]


def is_batch(messages: object) -> bool:
    """Whether this is a list of conversations."""
    return (
        isinstance(messages, Sequence)
        and bool(messages)
        and all(
            isinstance(item, Sequence) and not isinstance(item, (str, bytes)) for item in messages
        )
    )


def read_conversation(messages: object, variant: str, locator: str) -> Conversation:
    """Checks messages and finds their audios.

    Args:
        variant: "desta2" has messages of role audio, "desta25" audios within user messages.
        locator: the mark of an audio in a text.

    Raises:
        UsageError: a message is not understood.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        raise UsageError(
            "a conversation is a list of messages, at least one",
            '[{"role": "audio", "content": "call.wav"}, {"role": "user", "content": "..."}]',
        )
    turns: list[ChatTurn] = []
    audios: list[AudioInput] = []
    waiting: list[str | int] = []
    for number, message in enumerate(messages):
        role, content, texts = _check(message, number)
        if role == "audio":
            audios.append(AudioInput(content, texts))
            if variant == "desta2":
                turns.append(ChatTurn("audio", (len(audios) - 1,)))
            else:
                # DeSTA2.5 knows audio within a user's message only.
                waiting += [len(audios) - 1, "\n"]
            continue
        parts = _parts(message, content, role, number, audios, variant, locator)
        if waiting and role == "user":
            parts, waiting = [*waiting, *parts], []
        elif waiting:
            turns.append(ChatTurn("user", tuple(waiting[:-1])))
            waiting = []
        turns.append(ChatTurn(role, tuple(parts)))
    if waiting:
        turns.append(ChatTurn("user", tuple(waiting[:-1])))
    return Conversation(tuple(turns), tuple(audios))


def _check(message: object, number: int) -> tuple[str, Any, str | None]:
    where = f"message {number + 1}"
    if not isinstance(message, Mapping):
        raise UsageError(f"{where} is {type(message).__name__}", "a message is a dict")
    unknown = message.keys() - {"role", "content", "text", "audios"}
    if unknown:
        raise UsageError(
            f"{where} has unknown keys {', '.join(sorted(map(str, unknown)))}",
            "known are role, content, text (of audio) and audios",
        )
    role, content, text = message.get("role"), message.get("content"), message.get("text")
    if role not in ROLES:
        raise UsageError(f"{where} has the role {role!r}", f"roles are {', '.join(ROLES)}")
    if content is None:
        raise UsageError(f"{where} has no content", "give text, or an audio for the role audio")
    if role != "audio" and not isinstance(content, str):
        raise UsageError(
            f"{where} of role {role} has content of type {type(content).__name__}", "give text"
        )
    if text is not None and (role != "audio" or not isinstance(text, str)):
        raise UsageError(
            f"{where} has a text that is not a transcript", "text belongs to role audio"
        )
    return role, content, text


def _parts(
    message: Mapping[str, Any],
    content: str,
    role: str,
    number: int,
    audios: list[AudioInput],
    variant: str,
    locator: str,
) -> list[str | int]:
    named = message.get("audios") or []
    if not named and (variant == "desta2" or locator not in content):
        return [content]
    if variant == "desta2":
        raise UsageError(
            f"message {number + 1} has audios within its text, which DeSTA2 does not know",
            "give them as messages of role audio",
        )
    pieces = content.split(locator)
    if len(pieces) - 1 != len(named):
        raise UsageError(
            f"message {number + 1} has {len(pieces) - 1} times {locator} and {len(named)} audios",
            "each mark needs one entry in audios",
        )
    if role != "user":
        raise UsageError(f"message {number + 1} of role {role} has audios", "give them to user")
    parts: list[str | int] = [pieces[0]]
    for entry, piece in zip(named, pieces[1:], strict=True):
        if not isinstance(entry, Mapping) or entry.get("audio") is None:
            raise UsageError(
                f"message {number + 1} has an entry of audios without audio",
                'an entry is {"audio": path, "text": transcript or None}',
            )
        audios.append(AudioInput(entry["audio"], entry.get("text")))
        parts += [len(audios) - 1, piece]
    return parts


__all__ = ["AudioInput", "Conversation", "is_batch", "read_conversation"]
