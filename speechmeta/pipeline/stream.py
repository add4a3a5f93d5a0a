"""The turns of a call as they end, and its report when the last one has.

stream = analyzer.stream("call.wav")
for turn in stream:                 # or: async for turn in stream
    print(turn.start, turn.meta.transcript)
stream.report.conversation
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Self

from speechmeta.pipeline.progress import CallProgress
from speechmeta.schema import AudioInfo, CallReport, Turn


@dataclass(frozen=True)
class Step:
    """What one step of an analysis brought.

    Attributes:
        progress: where it stands.
        audio: the recording, and `speakers` the names of those who may talk; from the first
            step on.
        turns: those that ended, in the order of the report and equal to its turns. Where numbers
            are redacted they all come with the last step: what is private is only known then.
    """

    progress: CallProgress
    audio: AudioInfo
    speakers: tuple[str, ...]
    turns: tuple[Turn, ...] = ()


Steps = Generator[Step, None, CallReport]


class CallStream:
    """Turns of a call, each as soon as it and all before it have been analysed.

    Who stops asking stops the work. Each stream is gone through once.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._ready: deque[Turn] = deque()
        self._report: CallReport | None = None

    @property
    def report(self) -> CallReport:
        """The whole report; analyses what is left of the call first.

        Raises:
            SpeechMetaError: see `Analyzer.analyze_call`.
        """
        while self._report is None:
            self._advance()
        return self._report

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Turn:
        turn = self._next()
        if turn is None:
            raise StopIteration
        return turn

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Turn:
        # The work is torch's; the event loop goes on meanwhile.
        turn = self._ready.popleft() if self._ready else await asyncio.to_thread(self._next)
        if turn is None:
            raise StopAsyncIteration
        return turn

    def close(self) -> None:
        """Stops the work; what has ended stays."""
        self._steps.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> Turn | None:
        while not self._ready and self._report is None:
            self._advance()
        return self._ready.popleft() if self._ready else None

    def _advance(self) -> None:
        try:
            self._ready.extend(next(self._steps).turns)
        except StopIteration as end:
            if end.value is None:
                raise RuntimeError("the stream was closed, or failed, before its end") from None
            self._report = end.value


__all__ = ["CallStream", "Step", "Steps"]
