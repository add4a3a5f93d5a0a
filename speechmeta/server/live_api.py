"""`/v1/live`: calls that still go on, over WebSockets; docs/live.md says how."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, WebSocket
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.websockets import WebSocketState

from speechmeta.errors import AudioError, SpeechMetaError, UsageError
from speechmeta.pipeline.live_call import LiveCall, LiveModel
from speechmeta.server.envelope import error_response
from speechmeta.server.live_hall import WATCHED_MESSAGES, Place
from speechmeta.server.live_messages import (
    Beginning,
    Ended,
    OwnWire,
    TwilioWire,
    Wire,
)
from speechmeta.server.live_session import LiveSession, error_message
from speechmeta.server.log_lines import place_of
from speechmeta.server.parameters import call_options
from speechmeta.server.problems import Refused, TookTooLong, as_told, status_of
from speechmeta.server.served import Served
from speechmeta.writers.structured import compact

log = logging.getLogger("speechmeta.server")

START_SECONDS = 15.0
"""From the connection to the message that begins the call."""

MOST_JUNK = 10
"""Messages that mean nothing; with more the call is ended."""

MESSAGES_PER_SECOND = 1000.0
MESSAGES_AT_ONCE = 4000.0
"""Messages that a client may send; of one that sends more no more are read until it is their
time."""

CLIENT_LEFT = 499
"""The status in the log of a call whose client did not wait for its end."""

_PING_SECONDS = 15.0

GOING_AWAY, POLICY, FAULT, AGAIN = 1012, 1008, 1011, 1013
"""Codes with which a WebSocket is closed (RFC 6455 and IANA's list)."""


class _Left(Exception):
    """The client has gone."""


@dataclass
class _Pace:
    """How fast messages may come."""

    left: float = MESSAGES_AT_ONCE
    at: float = field(default_factory=time.monotonic)

    async def wait(self) -> None:
        """Until one more may be read; always lets others have a turn."""
        now = time.monotonic()
        self.left = min(MESSAGES_AT_ONCE, self.left + (now - self.at) * MESSAGES_PER_SECOND)
        self.at = now
        self.left -= 1
        await asyncio.sleep(max(0.0, -self.left / MESSAGES_PER_SECOND))


def router(served: Served) -> APIRouter:
    """The routes of live calls."""
    routes = APIRouter(tags=["live calls"])

    @routes.websocket("/v1/live")
    async def live(websocket: WebSocket) -> None:
        await _Call(served, websocket, OwnWire()).serve()

    @routes.websocket("/v1/live/twilio")
    async def twilio(websocket: WebSocket) -> None:
        await _Call(served, websocket, TwilioWire(), key_may_follow=True).serve()

    @routes.get(
        "/v1/live/{name}",
        summary="Watch a live call",
        response_description="Its messages as server-sent events, from now to its end.",
    )
    async def watch(name: str, request: Request) -> EventSourceResponse:
        place = served.hall.find(name, request.state.owner)
        return EventSourceResponse(_watched(place), headers={"Cache-Control": "no-store"})

    return routes


async def _watched(place: Place) -> AsyncIterator[bytes]:
    messages: asyncio.Queue[str | None] = asyncio.Queue(WATCHED_MESSAGES)
    place.watchers.add(messages)
    try:
        while True:
            try:
                message = await asyncio.wait_for(messages.get(), _PING_SECONDS)
            except TimeoutError:
                yield format_sse_event(comment="still at it")
                continue
            if message is None:
                return
            yield format_sse_event(event="live", data_str=message)
    finally:
        place.watchers.discard(messages)


class _Call:
    """One connection from its handshake to its last message.

    Args:
        key_may_follow: whether the key may come with the first message, as Twilio sends no
            headers of one's own.
    """

    def __init__(
        self, served: Served, websocket: WebSocket, wire: Wire, key_may_follow: bool = False
    ) -> None:
        self._served, self._websocket, self._wire = served, websocket, wire
        self._key_may_follow = key_may_follow
        self._number = secrets.token_hex(8)
        self._status, self._kind = 0, ""
        self._session: LiveSession | None = None
        self._tells = True
        self._sending = asyncio.Lock()
        self._pace = _Pace()
        self._junk = 0

    async def serve(self) -> None:
        """Answers, whatever comes; counted and logged like every request."""
        begun = time.monotonic()
        try:
            await self._admitted()
        except _Left:
            self._status = CLIENT_LEFT
        except asyncio.CancelledError:
            self._status = CLIENT_LEFT
            raise
        except Exception as error:
            await self._end_by(error)
        finally:
            self._account(time.monotonic() - begun)

    async def _admitted(self) -> None:
        served, websocket = self._served, self._websocket
        if not served.service.ready:
            raise Refused(503, "the server is not ready", "try again in a moment", 5)
        if self._key_may_follow and "authorization" not in websocket.headers:
            with served.hall.knock():
                beginning = await self._accepted()
                owner = served.keys.owner_by(beginning.api_key)
            with served.hall.place(owner) as place:
                await self._going_on(place, beginning)
            return
        with served.hall.place(served.keys.owner(websocket)) as place:
            await self._going_on(place, await self._accepted())

    async def _accepted(self) -> Beginning:
        await self._websocket.accept()
        try:
            return await asyncio.wait_for(self._beginning(), START_SECONDS)
        except TimeoutError:
            raise Refused(
                408, f"no call began in {START_SECONDS:g} s", "send start first"
            ) from None

    async def _beginning(self) -> Beginning:
        while True:
            heard = await self._heard()
            if isinstance(heard, Beginning):
                return heard
            if isinstance(heard, Ended):
                raise UsageError("the call ended before it had begun", "send start first")

    async def _going_on(self, place: Place, beginning: Beginning) -> None:
        served = self._served
        model = served.service.model
        options = call_options(served.call, dict(beginning.given))
        if beginning.channels == 1 and isinstance(self._wire, TwilioWire):
            # A track is one party.
            options = options.updated({"speakers": 1})
        lane = model.lane(options, beginning.language, beginning.prompt)
        facts = model.facts_of(lane)
        speaker_model = options.speaker_model
        make = model.analyzer.embedder_source(speaker_model)

        def made() -> LiveCall:
            return LiveCall(
                options,
                LiveModel(facts.info, facts.label_sets, facts.abstain_below, facts.fields),
                rate=beginning.rate,
                channels=beginning.channels,
                embedder=served.hall.embedder(speaker_model, make),
                codec=beginning.encoding,
                partials=beginning.partials,
            )

        async def tell(message: str) -> None:
            place.tell(message)
            if self._tells:
                await self._send(message)

        loop = asyncio.get_running_loop()
        call = await loop.run_in_executor(served.hall.thread, made)
        self._tells = beginning.tells
        place.names = (self._number, *beginning.names)
        await tell(
            compact(
                {
                    "type": "ready",
                    "id": self._number,
                    "rate": beginning.rate,
                    "channels": beginning.channels,
                    "encoding": beginning.encoding,
                    "model": facts.info.name,
                    "fields": list(model.analyzer.asked_fields(options)),
                    "speakers": call.names,
                }
            )
        )
        session = self._session = LiveSession(
            call,
            lane,
            served.service,
            served.hall.thread,
            tell,
            beginning.measures_seconds,
            served.metrics.live_delay,
        )
        reading = asyncio.create_task(self._read(session))
        working = asyncio.create_task(session.run())
        leaving = asyncio.create_task(place.leaving.wait())
        tasks: set[asyncio.Task[Any]] = {reading, working, leaving}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                if reading.done():
                    reading.result()
                    # The call has ended; who is told of it waits for the report.
                    tasks |= {asyncio.create_task(self._until_left())} if self._tells else set()
                else:
                    await tell(_closing("the server is being stopped"))
                    session.end()
                tasks -= {leaving}
            report = await self._result(working, tasks)
            await tell(report)
            stopped = place.leaving.is_set()
            if stopped:
                await self._close(GOING_AWAY, "the server is being stopped")
            else:
                await self._close(1000)
            self._status = 200
        finally:
            session.close()
            for task in {*tasks, leaving}:
                task.cancel()
            await asyncio.gather(*tasks, leaving, return_exceptions=True)

    async def _result(self, working: asyncio.Task[str], tasks: set[asyncio.Task[Any]]) -> str:
        """What is worked on, unless its client leaves or it takes too long."""
        limit = self._served.options.request_seconds
        waited = {task for task in tasks if not task.done()}
        end = time.monotonic() + limit
        while not working.done():
            left = end - time.monotonic()
            ended, waited = await asyncio.wait(
                waited, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED
            )
            if not ended:
                raise TookTooLong(limit)
            for task in ended - {working}:
                task.result()
        return working.result()

    async def _read(self, session: LiveSession) -> None:
        """Takes sound until the client says that it ends, or it has been long enough."""
        most = min(self._served.options.live_hours, self._served.call.limits.max_hours)
        until = time.monotonic() + 3600 * most
        idle = self._served.options.client_seconds
        while session.seconds < 3600 * most and time.monotonic() < until:
            try:
                heard = await asyncio.wait_for(self._heard(), idle)
            except TimeoutError:
                raise Refused(
                    408, f"nothing came for {idle:g} s", "send silence as sound"
                ) from None
            except _Left:
                if self._tells:
                    raise
                # Others wait for the report.
                heard = Ended()
            if isinstance(heard, Ended):
                if isinstance(self._wire, TwilioWire):
                    await session.feed(self._wire.rest())
                session.end()
                return
            if heard is not None and not isinstance(heard, Beginning):
                await session.feed(heard)
        if self._tells:
            await self._send(_closing(f"the call is longer than {most:g} hours"))
        session.end()

    async def _heard(self) -> Any:
        """What the next message means; of junk only so much is borne."""
        while True:
            await self._pace.wait()
            message = await self._receive()
            try:
                text, frame = message.get("text"), message.get("bytes")
                return self._wire.frame(frame) if text is None else self._wire.text(text)
            except (UsageError, AudioError) as error:
                self._junk += 1
                if self._junk > MOST_JUNK or self._session is None:
                    raise
                if self._tells:
                    await self._send(error_message(error, fatal=False))

    async def _receive(self) -> Any:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise _Left
        return message

    async def _until_left(self) -> None:
        """Drops what is sent behind the end; returns by `_Left` alone."""
        while True:
            await self._pace.wait()
            await self._receive()

    async def _send(self, text: str) -> None:
        """Sends a message; a client that takes none is given up.

        Raises:
            _Left: it has gone, or takes nothing.
        """
        try:
            async with asyncio.timeout(self._served.options.client_seconds), self._sending:
                await self._websocket.send_text(text)
        except TimeoutError:
            raise _Left from None
        except Exception as error:
            # What a closed connection raises is the server's own affair.
            raise _Left from error

    async def _close(self, code: int, reason: str = "") -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(self._served.options.client_seconds):
                await self._websocket.close(code, reason)

    async def _end_by(self, error: Exception) -> None:
        """Tells a client why its call ends here."""
        self._kind = type(error).__name__
        if isinstance(error, SpeechMetaError):
            told: SpeechMetaError = error
        else:
            where = place_of(error)
            log.error("fault", extra={"id": self._number, "kind": self._kind, "where": where})
            told = as_told((self._kind, ""))
        self._status = status_of(told)
        if self._websocket.application_state is WebSocketState.CONNECTING:
            with contextlib.suppress(Exception):
                await self._websocket.send_denial_response(error_response(told))
            return
        with contextlib.suppress(_Left):
            await self._send(error_message(told, fatal=True))
        code = FAULT if self._status in (500, 504, 507) else POLICY
        await self._close(AGAIN if self._status in (429, 503) else code, type(told).__name__)

    def _account(self, seconds: float) -> None:
        served, session = self._served, self._session
        more: dict[str, Any] = {}
        if session is not None:
            more = {"audio_seconds": round(session.seconds, 3), "turns": session.turns}
            served.metrics.live_ended(session.seconds, session.turns)
        if self._kind or self._status == CLIENT_LEFT:
            self._kind = self._kind or "ClientLeft"
            served.metrics.error(self._kind)
        route = getattr(self._websocket.scope.get("route"), "path", "none")
        served.metrics.request("WEBSOCKET", route, self._status, seconds)
        log.info(
            "live",
            extra={
                "id": self._number,
                "route": route,
                "status": self._status,
                "seconds": round(seconds, 3),
                **more,
                **({"kind": self._kind} if self._kind else {}),
            },
        )


def _closing(reason: str) -> str:
    return compact({"type": "closing", "message": reason})
