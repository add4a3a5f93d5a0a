"""A client of live calls for tests: the `websockets` library, sound made into frames."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from serving import Running
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from speechmeta.audio.live_frames import mulaw_table

Waveform = npt.NDArray[np.float32]
Message = dict[str, Any]


@contextmanager
def connected(live: Running, path: str = "/v1/live", **options: Any) -> Iterator[ClientConnection]:
    address = live.address.replace("http://", "ws://") + path
    # Who sends faster than in real time is read slowly, and so are the pings.
    chosen: dict[str, Any] = {"open_timeout": 60, "close_timeout": 10, "ping_interval": None}
    with connect(address, **chosen, **options) as found:
        yield found


def pcm(wave: Waveform) -> bytes:
    """(channels, n) as interleaved 16-bit samples."""
    return np.round(np.clip(wave, -1, 1 - 2**-15) * 32768).astype("<i2").T.tobytes()


def mulaw(wave: Waveform) -> bytes:
    """(channels, n) as interleaved mu-law: of each sample the nearest code."""
    table = mulaw_table()
    order = np.argsort(table, kind="stable")
    middles = (table[order][1:] + table[order][:-1]) / 2
    codes: bytes = order[np.searchsorted(middles, wave)].astype(np.uint8).T.tobytes()
    return codes


def start(rate: int, channels: int, **more: Any) -> str:
    return json.dumps({"type": "start", "rate": rate, "channels": channels, **more})


STOP = json.dumps({"type": "stop"})


def frames_of(sound: bytes, size: int) -> list[bytes]:
    return [sound[at : at + size] for at in range(0, len(sound), size)]


def until_closed(
    socket: ClientConnection, seconds: float = 120.0, found: list[Message] | None = None
) -> list[Message]:
    """All that comes until the server closes the connection, in `found` as soon as it comes."""
    found = [] if found is None else found
    try:
        while True:
            found.append(json.loads(socket.recv(timeout=seconds)))
    except ConnectionClosed:
        return found


def said(socket: ClientConnection, messages: Sequence[str | bytes]) -> list[Message]:
    """What comes while these are sent, and then until the connection is closed."""
    found: list[Message] = []
    hearing = threading.Thread(target=lambda: found.extend(until_closed(socket)))
    hearing.start()
    for message in messages:
        socket.send(message)
    hearing.join(300)
    assert not hearing.is_alive()
    return found


def kinds(messages: Sequence[Message]) -> list[str]:
    return [str(message["type"]) for message in messages]


def turns_of(messages: Sequence[Message]) -> list[Message]:
    return [message["turn"] for message in messages if message["type"] == "turn"]


def report_of(messages: Sequence[Message]) -> Message:
    found: Message = next(item["report"] for item in messages if item["type"] == "report")
    return found
