"""What clients of live calls say: our own messages, and those of Twilio Media Streams.

A wire turns messages into sound; it holds no socket. docs/live.md describes both.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from speechmeta.audio.live_frames import Encoding, samples_of
from speechmeta.audio.types import FloatArray
from speechmeta.errors import UsageError
from speechmeta.server.json_objects import of_whole_characters

TWILIO_RATE = 8000

LATE_SECONDS = 0.2
"""A track that is behind the other by more than this is taken to be silent there."""

MAX_JUMP_SECONDS = 60.0
"""Longest gap of a track that is filled with silence at once."""

_SHOWN = 60

Kind = TypeVar("Kind", bound=BaseModel)


@dataclass(frozen=True)
class Beginning:
    """How a call begins.

    Attributes:
        given: options, as `parameters.call_options` takes them.
        names: further names under which it may be watched.
        api_key: one that came with the message.
        tells: whether events go to the caller itself.
    """

    rate: int
    channels: int
    encoding: Encoding
    partials: bool = True
    measures_seconds: float = 5.0
    given: Mapping[str, Any] = field(default_factory=dict)
    language: str | None = None
    prompt: str | None = None
    names: tuple[str, ...] = ()
    api_key: str | None = None
    tells: bool = True


class Ended:
    """The client says that nothing follows."""


Heard = Beginning | FloatArray | Ended | None


class Wire(Protocol):
    """One side's way of talking."""

    def text(self, message: str) -> Heard:
        """What a text message means.

        Raises:
            UsageError: nothing, or it does not come where it may.
        """
        ...

    def frame(self, message: bytes) -> Heard:
        """What a binary message means.

        Raises:
            UsageError, AudioError: nothing, or it does not come where it may.
        """
        ...


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Start(_Message):
    """The first message of our own protocol."""

    type: Literal["start"]
    rate: Literal[8000, 16000] = 16000
    encoding: Literal["pcm_s16le", "mulaw"] = "pcm_s16le"
    channels: Literal[1, 2] = 1
    partials: bool = True
    measures_seconds: Annotated[float, Field(ge=1.0, le=3600.0, strict=False)] = 5.0
    options: dict[str, Any] = Field(default_factory=dict)
    language: str | None = None
    prompt: str | None = None


class Stop(_Message):
    """The last one."""

    type: Literal["stop"]


class OwnWire:
    """`start`, binary frames, `stop`."""

    def __init__(self) -> None:
        self._start: Beginning | None = None

    def text(self, message: str) -> Heard:
        found = _object(message)
        kind = found.get("type")
        if kind == "start":
            if self._start is not None:
                raise UsageError("the call has begun already", "open a connection for each call")
            start = _checked(Start, found)
            self._start = Beginning(
                rate=start.rate,
                channels=start.channels,
                encoding="pcm_mulaw" if start.encoding == "mulaw" else "pcm_s16le",
                partials=start.partials,
                measures_seconds=start.measures_seconds,
                given={"options": start.options} if start.options else {},
                language=start.language,
                prompt=start.prompt,
            )
            return self._start
        if kind == "stop":
            _checked(Stop, found)
            self._begun()
            return Ended()
        raise UsageError(
            f"there is no message of the type {kind!s:.{_SHOWN}}", "send start, or stop"
        )

    def frame(self, message: bytes) -> Heard:
        start = self._begun()
        return samples_of(message, start.encoding, start.channels)

    def _begun(self) -> Beginning:
        if self._start is None:
            raise UsageError("the call has not begun", 'send {"type": "start"} first')
        return self._start


class _Lenient(BaseModel):
    # Twilio may add to its messages.
    model_config = ConfigDict(extra="ignore")


class _Format(_Lenient):
    encoding: Literal["audio/x-mulaw"]
    sampleRate: Literal[8000]
    channels: Literal[1]


class _Parameters(_Lenient):
    streamSid: str
    callSid: str = ""
    tracks: Annotated[list[Literal["inbound", "outbound"]], Field(min_length=1, max_length=2)]
    customParameters: dict[str, str] = Field(default_factory=dict)
    mediaFormat: _Format


class _TwilioStart(_Lenient):
    start: _Parameters


class _Payload(_Lenient):
    track: Literal["inbound", "outbound"] = "inbound"
    timestamp: Annotated[int, Field(ge=0, le=7 * 86_400_000)]
    payload: str


class _Media(_Lenient):
    media: _Payload


class TwilioWire:
    """Twilio Media Streams: https://www.twilio.com/docs/voice/media-streams/websocket-messages

    The track `inbound` is the first channel, `outbound` the second. What did not come is silence,
    so that the tracks stay beside each other.
    """

    def __init__(self) -> None:
        self._tracks: list[str] = []
        self._held: list[FloatArray] = []
        self._placed: list[int] = []
        self._first: int | None = None
        self._sent = 0

    def text(self, message: str) -> Heard:
        found = _object(message)
        event = found.get("event")
        if event in ("connected", "mark", "dtmf"):
            # Keys that are pressed come as sound too; nothing of them goes into a document.
            return None
        if event == "start":
            return self._begin(_checked(_TwilioStart, found).start)
        if not self._tracks:
            raise UsageError("the stream has not begun", "Twilio sends connected, then start")
        if event == "media":
            return self._media(_checked(_Media, found).media)
        if event == "stop":
            return Ended()
        raise UsageError(
            f"there is no event {event!s:.{_SHOWN}}",
            "it is one of connected, start, media, mark, dtmf, stop",
        )

    def frame(self, message: bytes) -> Heard:
        raise UsageError("Twilio sends no binary frames", "send them to /v1/live")

    def rest(self) -> FloatArray:
        """What was held back for the other track, at the end."""
        return self._joined(max(self._placed, default=0))

    def _begin(self, start: _Parameters) -> Beginning:
        if self._tracks:
            raise UsageError("the stream has begun already", "open a connection for each stream")
        self._tracks = [name for name in ("inbound", "outbound") if name in start.tracks]
        self._held = [np.zeros(0, np.float32) for _ in self._tracks]
        self._placed = [0 for _ in self._tracks]
        own = start.customParameters
        given: dict[str, Any] = {"options": own["options"]} if "options" in own else {}
        return Beginning(
            rate=TWILIO_RATE,
            channels=len(self._tracks),
            encoding="pcm_mulaw",
            given=given,
            language=own.get("language"),
            prompt=own.get("prompt"),
            names=tuple(name for name in (start.callSid, start.streamSid) if name),
            api_key=own.get("api_key"),
            tells=own.get("events") == "here",
        )

    def _media(self, media: _Payload) -> FloatArray | None:
        if media.track not in self._tracks:
            raise UsageError(f"the track {media.track} was not announced", "start names the tracks")
        try:
            data = base64.b64decode(media.payload, validate=True)
        except binascii.Error as error:
            raise UsageError("a payload is not base64", "send what Twilio sends") from error
        samples = samples_of(data, "pcm_mulaw", 1)[0]
        row = self._tracks.index(media.track)
        if self._first is None:
            self._first = media.timestamp
        due = (media.timestamp - self._first) * TWILIO_RATE // 1000
        missing = due - self._placed[row]
        if missing > MAX_JUMP_SECONDS * TWILIO_RATE:
            raise UsageError("a timestamp is far ahead of the others", "send what Twilio sends")
        # Timestamps of frames that follow each other may be a frame apart from their sound.
        if missing > LATE_SECONDS * TWILIO_RATE:
            self._place(row, np.zeros(missing, np.float32))
        elif -missing > LATE_SECONDS * TWILIO_RATE:
            samples = samples[-missing:]
        self._place(row, samples)
        behind = min(self._placed)
        ready = max(behind, max(self._placed) - round(2 * LATE_SECONDS * TWILIO_RATE))
        return self._joined(ready) if ready > self._sent else None

    def _place(self, row: int, samples: FloatArray) -> None:
        self._held[row] = np.concatenate([self._held[row], samples])
        self._placed[row] += len(samples)

    def _joined(self, ready: int) -> FloatArray:
        count = ready - self._sent
        rows = []
        for row, held in enumerate(self._held):
            if len(held) < count:
                # It comes late, or not at all: what comes of this time later is dropped.
                self._place(row, np.zeros(count - len(held), np.float32))
            rows.append(self._held[row][:count])
            self._held[row] = self._held[row][count:]
        self._sent = ready
        return np.stack(rows) if rows else np.zeros((1, 0), np.float32)


def _object(message: str) -> dict[str, Any]:
    try:
        found = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise UsageError("a message is no JSON", "send sound as binary frames") from error
    if not isinstance(found, dict):
        raise UsageError("a message is no JSON object", 'send one such as {"type": "stop"}')
    of_whole_characters(found, "a message")
    return found


def _checked(kind: type[Kind], found: dict[str, Any]) -> Kind:
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{key:.{_SHOWN}}: {first['msg']}", "see docs/live.md") from None


__all__ = ["Beginning", "Ended", "Heard", "OwnWire", "TwilioWire", "Wire"]
