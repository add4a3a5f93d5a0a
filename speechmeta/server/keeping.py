"""Results of requests and jobs on their way into a database, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmeta.batch.storing import noted, opened, written
from speechmeta.errors import SpeechMetaError, StoreError
from speechmeta.server.metrics import Metrics
from speechmeta.server.problems import Stopped
from speechmeta.store.digest import digest_of
from speechmeta.writers.structured import compact

if TYPE_CHECKING:
    from speechmeta.store.sink import Sink

log = logging.getLogger("speechmeta.server")


_NOT_STORED = StoreError(
    "the server's database did not take this result", "it is whole; the server's log says why"
)


class Keeper:
    """Writes results to a database, one after the other. What it refuses is answered all the
    same, with a note under `failures`.

    Args:
        url: of the database.
    """

    def __init__(self, url: str, metrics: Metrics) -> None:
        self._url = url
        self._metrics = metrics
        self._held = ExitStack()
        self._opened: Sink | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="speechmeta-sink")

    def start(self) -> None:
        """Opens the database.

        Raises:
            UsageError, StoreError: see `Sink`.
        """
        self._opened = self._held.enter_context(opened(self._url))

    def stop(self) -> None:
        """Closes it, when what was begun is written."""
        self._writer.shutdown()
        self._held.close()

    @property
    def _sink(self) -> Sink:
        if self._opened is None:
            raise Stopped
        return self._opened

    @property
    def address(self) -> str:
        """The URL without a password."""
        return self._sink.address

    async def kept(self, recording: Path, data: dict[str, Any]) -> dict[str, Any]:
        """Stores a document; returns it as it is to be answered.

        Args:
            recording: still there.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writer, self._kept, recording, data)

    async def written(self, digest: str, line: str, analysed: float) -> tuple[str, bool]:
        """Stores a document that is a line of JSON; returns it as it is to be kept, and whether
        it was stored."""

        def work() -> tuple[str, bool]:
            whole, error = written(self._sink, digest, json.loads(line), analysed)
            return compact(self._noted(whole, error)), error is None

        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    def _kept(self, recording: Path, data: dict[str, Any]) -> dict[str, Any]:
        try:
            whole, error = written(self._sink, digest_of(recording), data)
        except SpeechMetaError as failed:
            whole, error = data, failed
        return self._noted(whole, error)

    def _noted(self, data: dict[str, Any], error: SpeechMetaError | None) -> dict[str, Any]:
        """Tells clients that a result was not stored, and the log why: addresses of databases
        are no matter of clients."""
        if error is None:
            return data
        kind = type(error).__name__
        self._metrics.error(kind)
        why = {"why": error.message} if isinstance(error, StoreError) else {}
        log.error("a result was not stored", extra={"kind": kind, **why})
        return noted(data, _NOT_STORED)


__all__ = ["Keeper"]
