"""A client that waits for a call: what the service's thread tells, in the client's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request

from speechmeta.errors import SpeechMetaError
from speechmeta.pipeline.options import CallOptions
from speechmeta.schema import CallReport, Turn
from speechmeta.server.admission import Visit
from speechmeta.server.envelope import note
from speechmeta.server.uploads import Incoming
from speechmeta.web_safety import without_places
from speechmeta.writers.files import printable

if TYPE_CHECKING:
    from speechmeta.server.served import Served


class Hearing:
    """A `service.Listener` that hands everything to the event loop in which it was made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[Sequence[Turn] | CallReport | SpeechMetaError] = asyncio.Queue()

    def begun(self) -> None:
        """Nothing to tell."""

    def turns(self, turns: Sequence[Turn]) -> None:
        self._put(turns)

    def ended(self, outcome: CallReport | SpeechMetaError) -> None:
        self._put(outcome)

    def _put(self, news: Sequence[Turn] | CallReport | SpeechMetaError) -> None:
        # The loop is closed when the server stops.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)

    async def next(self) -> Sequence[Turn] | CallReport:
        """The next turns, or the report at the end.

        Raises:
            SpeechMetaError: the call has no report.
        """
        news = await self._news.get()
        if isinstance(news, SpeechMetaError):
            raise news
        return news


@asynccontextmanager
async def on_its_way(
    served: Served,
    visit: Visit,
    incoming: Incoming,
    options: CallOptions,
    language: str | None = None,
    hotwords: str | None = None,
) -> AsyncIterator[Hearing]:
    """Takes a call on; it is given up when the block is left.

    Raises:
        Busy: there is no room. UsageError: the model does not give what is asked for.
    """
    service = served.service
    served.admission.enter(visit)
    hearing = Hearing()
    try:
        ticket = service.submit(
            incoming.path, options, hearing, language=language, hotwords=hotwords,
            client=visit.client,
        )  # fmt: skip
        try:
            yield hearing
        finally:
            service.cancel(ticket)
    except SpeechMetaError as error:
        raise without_our_paths(error, incoming) from error


async def unless_left(request: Request, hearing: Hearing) -> Sequence[Turn] | CallReport:
    """What comes next, as long as the client is there.

    Raises:
        ClientDisconnect: it has left. SpeechMetaError: see `Hearing.next`.
    """
    news = asyncio.ensure_future(hearing.next())
    left = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({news, left}, return_when=asyncio.FIRST_COMPLETED)
        if not news.done():
            raise ClientDisconnect
        return news.result()
    finally:
        for task in (news, left):
            task.cancel()


async def told(
    request: Request, hearing: Hearing, news: Sequence[Turn] | CallReport, seconds: float
) -> AsyncGenerator[Sequence[Turn] | CallReport | None]:
    """What comes of a call, from `news` to its report; None where nothing came for so long.

    Raises:
        ClientDisconnect: the client has left. SpeechMetaError: see `Hearing.next`.
    """
    while True:
        yield news
        if isinstance(news, CallReport):
            return
        waiting = asyncio.ensure_future(unless_left(request, hearing))
        try:
            while not (await asyncio.wait({waiting}, timeout=seconds))[0]:
                yield None
            news = waiting.result()
        finally:
            waiting.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def report_of(request: Request, served: Served, incoming: Incoming, hearing: Hearing,
                    begun: float) -> CallReport:  # fmt: skip
    """The report, counted and named as the client names the recording."""
    while True:
        news = await unless_left(request, hearing)
        if isinstance(news, CallReport):
            return accounted(request, served, incoming, news, begun)


def accounted(
    request: Request, served: Served, incoming: Incoming, report: CallReport, begun: float
) -> CallReport:
    """Counts a report; returns it without our paths."""
    seconds = report.audio.duration
    served.metrics.call(seconds, len(report.turns), time.monotonic() - begun)
    note(request, audio_seconds=round(seconds, 3), turns=len(report.turns))
    return renamed(report, str(incoming.path), incoming.name)


def renamed(report: CallReport, path: str, name: str) -> CallReport:
    """A report that calls the recording as its sender does."""
    audio = report.audio.model_copy(update={"path": printable(name)})
    warnings = [printable(without_places(text, path, name)) for text in report.warnings]
    return report.model_copy(update={"audio": audio, "warnings": warnings})


def without_our_paths(error: SpeechMetaError, incoming: Incoming) -> SpeechMetaError:
    """The same error, but calling the recording as its sender does."""
    path = str(incoming.path)
    error.message = without_places(error.message, path, printable(incoming.name))
    error.hint = without_places(error.hint, path, printable(incoming.name))
    return error
