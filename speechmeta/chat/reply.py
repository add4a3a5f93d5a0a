"""What a chat returns: answers, what was heard for them and what they cost, and streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from speechmeta.chat.recordings import HeardWindow
from speechmeta.errors import UsageError


@dataclass(frozen=True)
class HeardAudio:
    """What the model was given of one recording.

    Attributes:
        path: its path, if it has one.
        seconds: its duration.
        windows: the parts that were encoded; together the whole recording.
        skipped_seconds: what was not encoded: above 0 only with `reference_behaviour`.
    """

    path: str | None
    seconds: float
    windows: tuple[HeardWindow, ...]
    skipped_seconds: float

    @property
    def transcript(self) -> str:
        """The windows' transcripts joined with spaces."""
        return " ".join(w.transcript.strip() for w in self.windows if w.transcript.strip())


@dataclass(frozen=True)
class ChatUsage:
    """What an answer cost.

    Attributes:
        prompt_tokens: positions of the prompt, audio rows included.
        reused_tokens: how many of them came from an earlier turn's keys and values.
        prefill_tokens: how many went through the decoder.
        answer_tokens: tokens generated.
        encoded_windows, transcribed_windows: windows of up to 30 s that went through Whisper's
            encoder and decoder for this call (for a batch: for all of it).
    """

    prompt_tokens: int
    reused_tokens: int
    prefill_tokens: int
    answer_tokens: int
    encoded_windows: int
    transcribed_windows: int


@dataclass(frozen=True)
class ChatReply:
    """An answer.

    Attributes:
        text: the answer as text.
        value: with `output_type`: the validated value (pydantic instance, JSON value, or the
            matched text); else None.
        finish: "stop", "length" where the answer was cut at `max_new_tokens`, or "stopped" where
            a stream was closed before its end.
        token_ids: what was generated, end token included.
        prompt: the prompt as text, transcripts in place, audio rows left out.
        audios: what was heard.
        usage: what it cost.
        flags: `forced_close` where the token budget made a structured answer end; and the
            windows' flags.
    """

    text: str
    value: Any
    finish: str
    token_ids: tuple[int, ...]
    prompt: str
    audios: tuple[HeardAudio, ...]
    usage: ChatUsage
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text


class ChatStream(Iterator[str]):
    """An answer in pieces of text, as they are generated; `reply` is there after the last.

    Pieces may be read from any thread. Closing it, or leaving its `with` block, ends the
    generation; `reply` then holds what there is, with the finish reason "stopped".

    Args:
        begin: begins the pieces; it is given the function that takes the reply.
    """

    def __init__(self, begin: Callable[[Callable[[ChatReply], None]], Iterator[str]]) -> None:
        self._reply: ChatReply | None = None
        self._pieces = begin(self._take)

    def _take(self, reply: ChatReply) -> None:
        self._reply = reply

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the generation."""
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()

    @property
    def reply(self) -> ChatReply:
        """The whole answer, or what there was of it when the stream was closed.

        Raises:
            UsageError: the stream is neither read to its end nor closed, or nothing was read.
        """
        if self._reply is None:
            raise UsageError("the stream has not been read to its end", "iterate over it first")
        return self._reply


__all__ = ["ChatReply", "ChatStream", "ChatUsage", "HeardAudio"]
