"""One live call between its client and the model: sound goes in as it comes, news come out.

The numeric work of all calls is done in one thread, a second of sound at a time and the calls in
turn; the model's part goes through the service, before the turns of recordings.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from speechmeta.audio.types import FloatArray
from speechmeta.batch.flow import Finished
from speechmeta.errors import SpeechMetaError
from speechmeta.pipeline.live_call import (
    Ask,
    LiveCall,
    News,
    PartialWords,
    Renamed,
    TurnEnded,
    TurnFailed,
)
from speechmeta.pipeline.report import Outcome
from speechmeta.schema import CallReport
from speechmeta.server.lanes import Wanted
from speechmeta.server.problems import Stopped, as_told, body_of
from speechmeta.server.service import Service
from speechmeta.visible import visible_json
from speechmeta.writers.structured import compact, document

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from speechmeta.server.lanes import Lane

AHEAD_SECONDS = 5.0
"""Sound that may wait to be looked at; a client that sends faster is read more slowly."""

MOST_ASKED = 32
"""Clips that may wait for the model; with more, no further sound is taken."""

_STEP_SECONDS = 1.0
_KEPT_MOMENTS = 4096

Tell = Callable[[str], Awaitable[None]]


@dataclass
class _Work:
    """What is to be done next, in the calls' thread."""

    block: FloatArray | None
    outcomes: list[tuple[int, Outcome | None]]
    finish: bool
    measures: bool


@dataclass
class _Done:
    asks: list[Ask] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    pausing: bool = False


class LiveSession:
    """A live call on its way.

    Args:
        call: it. lane: what is asked of the model.
        thread: of all calls.
        tell: sends a message to the client.
        measures_seconds: how often measures are told at most.
        observe: told the seconds from the end of each turn to its message.
    """

    def __init__(
        self,
        call: LiveCall,
        lane: Lane,
        service: Service,
        thread: Executor,
        tell: Tell,
        measures_seconds: float,
        observe: Callable[[float], None],
    ) -> None:
        self._call, self._lane, self._service = call, lane, service
        self._thread, self._tell, self._observe = thread, tell, observe
        self._loop = asyncio.get_running_loop()
        self._wake, self._room = asyncio.Event(), asyncio.Event()
        self._blocks: deque[FloatArray] = deque()
        self._outcomes: list[tuple[int, Outcome | None]] = []
        self._asked: dict[int, int] = {}
        self._waiting = 0
        self._ended = self._finished = self._closed = False
        self._every, self._measured, self._counted = measures_seconds, 0.0, 0
        self._moments: deque[tuple[float, float]] = deque(maxlen=_KEPT_MOMENTS)
        self._taken = 0
        self.report: CallReport | None = None

    @property
    def seconds(self) -> float:
        """Of sound that came."""
        return self._taken / self._call.rate

    @property
    def turns(self) -> int:
        """That have ended."""
        return self._call.turns

    async def feed(self, block: FloatArray) -> None:
        """Takes samples (channels, n); waits while too much of them waits."""
        self._blocks.append(block)
        self._waiting += block.shape[1]
        self._taken += block.shape[1]
        self._moments.append((self.seconds, time.monotonic()))
        self._wake.set()
        while self._waiting > AHEAD_SECONDS * self._call.rate and not self._closed:
            self._room.clear()
            await self._room.wait()

    def end(self) -> None:
        """Nothing follows."""
        self._ended = True
        self._wake.set()

    def close(self) -> None:
        """Frees what is still being done for it."""
        self._closed = True
        self._room.set()
        self._service.expect(id(self), False)
        for key in self._asked.values():
            self._service.forget(key)
        self._asked.clear()
        self._blocks.clear()

    async def run(self) -> str:
        """Works until the report is there, and returns it as a message.

        Raises:
            SpeechMetaError: there is none.
        """
        while True:
            if (work := self._next()) is None:
                await self._wake.wait()
                self._wake.clear()
                continue
            done = await self._in_thread(partial(self._step, work))
            await self._hand_on(done)
            if self._finished and self._call.complete:
                break
        report = await self._in_thread(self._call.report)
        filled = self._service.model.analyzer
        if filled.options.call_schema is not None:
            report = await asyncio.to_thread(filled.finish, report)
        self.report = report
        # With redaction turns may be told only now.
        await self._hand_on(await self._in_thread(self._news))
        return f'{{"type":"report","report":{compact(document(report))}}}'

    def _next(self) -> _Work | None:
        outcomes, self._outcomes = self._outcomes, []
        block: FloatArray | None = None
        # A step that looks at nothing new is spared.
        enough = self._ended or self._waiting >= self._call.wanted
        if self._blocks and enough and len(self._asked) < MOST_ASKED:
            block = self._take()
        finish = self._ended and not self._blocks and block is None and not self._finished
        if block is None and not outcomes and not finish:
            return None
        self._finished = self._finished or finish
        due = self.seconds - self._measured >= self._every
        return _Work(block, outcomes, finish, due)

    def _take(self) -> FloatArray:
        """The oldest sound, at most a second of it."""
        left = round(_STEP_SECONDS * self._call.rate)
        parts: list[FloatArray] = []
        while self._blocks and left:
            first = self._blocks.popleft()
            if first.shape[1] > left:
                self._blocks.appendleft(first[:, left:])
                first = first[:, :left]
            left -= first.shape[1]
            parts.append(first)
        block = np.concatenate(parts, axis=1)
        self._waiting -= block.shape[1]
        self._room.set()
        return block

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await self._loop.run_in_executor(self._thread, work)

    def _step(self, work: _Work) -> _Done:
        """One step of the call, in its thread."""
        call = self._call
        for number, outcome in work.outcomes:
            call.answer(number, outcome)
        call.spare = self._service.idle
        if work.block is not None:
            call.push(work.block)
        if work.finish:
            call.finish()
        done = self._news()
        if work.measures and call.turns != self._counted:
            self._counted, self._measured = call.turns, self.seconds
            conversation, speakers = call.running()
            at = round(call.seconds, 3)
            done.messages += [
                compact({"type": "measures", "at": at, "conversation": _plain(conversation)}),
                compact({"type": "speakers", "at": at, "speakers": [_plain(s) for s in speakers]}),
            ]
        return done

    def _news(self) -> _Done:
        call = self._call
        done = _Done(call.asks(), call.dropped(), pausing=call.pausing)
        for news in call.news():
            done.messages.append(message_of(news))
            if isinstance(news, TurnEnded):
                done.ended.append(news.turn.end)
        return done

    async def _hand_on(self, done: _Done) -> None:
        self._service.expect(id(self), done.pausing and not self._closed)
        for number in done.dropped:
            if (key := self._asked.pop(number, None)) is not None:
                self._service.forget(key)
        for ask in done.asks:
            told = partial(self._on_decoded, ask.number)
            self._asked[ask.number] = self._service.decode(
                [ask.clip],
                [Wanted(ask.fields, ask.draft)],
                self._lane,
                told,
                urgent=True,
                optional=ask.optional,
            )
        if done.asks and not self._service.ready:
            raise Stopped
        for message in done.messages:
            await self._tell(message)
        now = time.monotonic()
        for end in done.ended:
            index = bisect_left(self._moments, (end, 0.0))
            if index < len(self._moments):
                self._observe(now - self._moments[index][1])

    def _on_decoded(self, number: int, ended: Finished) -> None:
        """In the service's thread."""
        outcome: Outcome | None = None
        if ended.records:
            outcome = ended.records[0]
        elif ended.error is not None:
            outcome = as_told(ended.error)
        # The loop is closed when the server stops.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._on_outcome, number, outcome)

    def _on_outcome(self, number: int, outcome: Outcome | None) -> None:
        if self._asked.pop(number, None) is not None:
            self._outcomes.append((number, outcome))
            self._wake.set()


def message_of(news: News) -> str:
    """What a client is told of it."""
    if isinstance(news, TurnEnded):
        turn = visible_json(news.turn.model_dump_json())
        return f'{{"type":"turn","number":{news.number},"turn":{turn}}}'
    if isinstance(news, PartialWords):
        return compact(
            {
                "type": "partial",
                "start": news.start,
                "end": news.end,
                "channel": news.channel,
                "speaker": news.speaker,
                "Transcript": news.transcript,
            }
        )
    if isinstance(news, Renamed):
        return compact({"type": "renamed", "numbers": list(news.numbers), "speaker": news.speaker})
    return failure_message(news)


def failure_message(news: TurnFailed) -> str:
    """Of a turn that could not be decoded."""
    return compact(
        {
            "type": "failed",
            "number": news.number,
            "start": news.start,
            "end": news.end,
            "channel": news.channel,
            "error": _told(news.error),
        }
    )


def error_message(error: SpeechMetaError, fatal: bool) -> str:
    """Of what a client did wrong, or of the call's end by a fault."""
    return compact({"type": "error", "fatal": fatal, **_told(error)})


def _told(error: SpeechMetaError) -> dict[str, str]:
    body = body_of(error)
    return {"message": body["message"], "hint": body["hint"], "kind": body["type"]}


def _plain(model: Any) -> Any:
    """As JSON has it; NaN becomes null."""
    return json.loads(model.model_dump_json(by_alias=True))


__all__ = ["LiveSession", "Tell", "error_message", "message_of"]
