"""How long a client may take: for its headers, for its body, and for reading the answer; and how
many connections it may have."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from speechmeta.server.clients import client_of
from speechmeta.server.problems import Refused
from speechmeta.web_safety import AsgiApp, Message, Receive, Send

HEADER_SECONDS = 15.0
"""From the connection, or the last answer, to the end of a request's headers."""

MIN_BYTES_PER_SECOND = 4096
"""Slowest upload on average, once it has taken longer than a client may be silent."""


class Patience:
    """ASGI middleware: a client that sends or takes nothing for so long is cut off.

    Args:
        seconds: for which it may be silent.
    """

    def __init__(self, app: AsgiApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.monotonic()
        size = 0
        whole = False

        async def patient_receive() -> Message:
            nonlocal size, whole
            if whole:
                # What comes now is the client's leaving, which may take as long as the work.
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._seconds)
            except TimeoutError:
                raise _too_slow() from None
            if message["type"] != "http.request":
                whole = True
                return message
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            passed = time.monotonic() - begun
            if not whole and passed > self._seconds and size < MIN_BYTES_PER_SECOND * passed:
                raise _too_slow()
            return message

        async def patient_send(message: Message) -> None:
            try:
                await asyncio.wait_for(send(message), self._seconds)
            except TimeoutError:
                raise Left from None

        await self._app(scope, patient_receive, patient_send)


class Left(Exception):
    """The client has gone, or takes nothing any more."""


def _too_slow() -> Refused:
    return Refused(408, "the request came too slowly", "send it again, over a faster connection")


class PromptHeaders(H11Protocol):
    """uvicorn's protocol, but a connection is closed whose headers do not come in time, or whose
    address has half of all that there may be."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()
        if self._has_many():
            self._stop()
            self.transport.abort()

    def _has_many(self) -> bool:
        most = self.config.limit_concurrency
        if most is None or self.client is None or len(self.connections) <= most // 2:
            return False
        own = client_of("", self.client[0])
        others = (item.client for item in self.connections if isinstance(item, H11Protocol))
        return sum(it is not None and client_of("", it[0]) == own for it in others) > most // 2

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Runs the clock exactly while the headers of a request are awaited."""
        elsewhere = self.transport.get_protocol() is not self
        if elsewhere or (self.cycle is not None and not self.cycle.response_complete):
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self._close)

    def _close(self) -> None:
        self._timer = None
        self.transport.abort()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
