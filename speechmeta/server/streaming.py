"""A call as server-sent events: turns as they are known, and its report at the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Protocol

from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from speechmeta.errors import SpeechMetaError
from speechmeta.schema import CallReport, Turn
from speechmeta.server.hearing import Hearing, accounted, told, unless_left, without_our_paths
from speechmeta.server.served import Served
from speechmeta.server.uploads import Incoming

PING_SECONDS = 15.0
"""A stream says something at least so often, so that nobody between takes it for dead."""

PING = format_sse_event(comment="still at it")


class Wording(Protocol):
    """How an interface words the news of one call, each as the bytes of an event."""

    def turns(self, turns: Sequence[Turn]) -> Iterable[bytes]:
        """The next turns."""
        ...

    async def report(self, report: CallReport) -> Iterable[bytes]:
        """The end."""
        ...

    def error(self, error: SpeechMetaError) -> bytes:
        """The end of a call that has no report."""
        ...


class CallStream(EventSourceResponse):
    """The answer that tells a call.

    Args:
        events: what is sent.
        held: closed when the answer has ended in whatever way, also before its first event.
    """

    def __init__(self, events: AsyncGenerator[bytes], held: AsyncExitStack) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store"})
        self._events = events
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held, aclosing(self._events):
            await super().__call__(scope, receive, send)


async def streamed(
    request: Request,
    served: Served,
    incoming: Incoming,
    hearing: Hearing,
    begun: float,
    wording: Wording,
    stack: AsyncExitStack,
) -> CallStream:
    """The answer for a call on its way, as soon as there is something to tell.

    Args:
        stack: what the call holds; taken over by the answer.

    Raises:
        SpeechMetaError: what is refused at once is refused with a status.
        ClientDisconnect: the client has left.
    """
    first = await unless_left(request, hearing)

    async def events() -> AsyncGenerator[bytes]:
        try:
            async with aclosing(told(request, hearing, first, PING_SECONDS)) as all_news:
                async for news in all_news:
                    if news is None:
                        yield PING
                    elif isinstance(news, CallReport):
                        report = accounted(request, served, incoming, news, begun)
                        for event in await wording.report(report):
                            yield event
                    else:
                        for event in wording.turns(news):
                            yield event
        except SpeechMetaError as error:
            served.metrics.error(type(error).__name__)
            yield wording.error(without_our_paths(error, incoming))

    return CallStream(events(), stack.pop_all())
