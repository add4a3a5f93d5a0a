"""Jobs on their way: from the store into the service, from the service into the store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx2

from speechmeta.batch.journal import STATE_FOLDER, run_lock
from speechmeta.errors import OutputError, SpeechMetaError
from speechmeta.pipeline.options import CallOptions
from speechmeta.schema import CallReport, Turn
from speechmeta.server.hearing import renamed, without_our_paths
from speechmeta.server.jobs import MAX_ATTEMPTS, RECORDINGS, Asked, Job, JobStore
from speechmeta.server.keeping import Keeper
from speechmeta.server.metrics import Metrics
from speechmeta.server.options import ServeOptions
from speechmeta.server.problems import Refused, Stopped
from speechmeta.server.service import Service, Ticket
from speechmeta.server.uploads import Incoming
from speechmeta.server.webhooks import RETRY_SECONDS, TIMEOUT_SECONDS, Webhooks
from speechmeta.store.digest import digest_of
from speechmeta.writers.files import output_error

log = logging.getLogger("speechmeta.server")

T = TypeVar("T")

_TICK_SECONDS = 1.0
_SWEEP_SECONDS = 60.0
_RETRY_SECONDS = 60


class JobRunner:
    """The jobs of a server, kept in its state folder.

    Args:
        state: the folder; only one server may use it at a time.
        share: jobs of one key that may wait.
        keeper: takes results to a database.
    """

    def __init__(
        self,
        state: Path,
        options: ServeOptions,
        share: int,
        service: Service,
        webhooks: Webhooks,
        metrics: Metrics,
        keeper: Keeper | None = None,
    ) -> None:
        self._options = options
        self._share = share
        self._keeper = keeper
        self._refused: dict[int, float] = {}
        self._service = service
        self.webhooks = webhooks
        self._metrics = metrics
        self._held = ExitStack()
        # One thread: SQLite's connection belongs to it, and writes come in their order.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="speechmeta-jobs")
        self._opened: JobStore | None = None
        self._live: set[str] = set()
        self._tickets: dict[str, Ticket] = {}
        self._waiting: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._state = state

    @property
    def _store(self) -> JobStore:
        if self._opened is None:
            raise Stopped
        return self._opened

    @property
    def recordings(self) -> Path:
        """Where recordings lie that are sent for jobs."""
        return self._state / RECORDINGS

    @property
    def keeps(self) -> bool:
        """Whether a job that is accepted now would outlive the server: nobody took its folder."""
        return self._opened is not None and self._opened.is_whole

    def check(self) -> None:
        """Sees that jobs can be kept.

        Raises:
            Refused: they cannot, until the server is started again.
        """
        if not self.keeps:
            raise Refused(
                503, "this server can keep no jobs at present", "try again later", _RETRY_SECONDS
            )

    def start(self) -> None:
        """Opens the store, and takes up what an earlier server left undone.

        Raises:
            UsageError: another server or run uses the folder. OutputError: it cannot be written.
        """
        try:
            (self._state / STATE_FOLDER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(error, self._state) from error
        self._held.enter_context(run_lock(self._state))
        self._opened = self._writer.submit(JobStore, self._state).result()
        self._do(self._store.tidy).result()
        for job in self._do(self._store.unfinished).result():
            self._take_up(job)

    def stop(self) -> None:
        """Closes the store; what is not done is done by the next server."""
        if self._opened is not None:
            self._writer.submit(self._opened.__exit__, None, None, None).result()
        self._writer.shutdown()
        self._held.close()

    async def accept(
        self, incoming: Incoming, owner: str, options: CallOptions, language: str | None,
        hotwords: str | None, webhook: str | None,
    ) -> Job:  # fmt: skip
        """Takes a job on: once this returns, a kill does not lose it.

        Raises:
            Refused: too many wait, or none can be kept.
            UsageError: the model does not give what is asked for.
            OutputError: there is no room on the disk.
        """
        self.check()
        self._service.model.lane(options, language, hotwords)
        with self._lock:
            full = self._waiting.total() >= self._options.max_jobs
            if full or self._waiting[owner] >= self._share:
                whose = "jobs wait" if full else "jobs of this key wait"
                raise Refused(
                    429, f"as many {whose} as the server takes on", "try again in a minute", 60
                )
            self._waiting[owner] += 1
        number = secrets.token_hex(16)
        asked = Asked(
            str(incoming.path), incoming.name, incoming.kept, options.model_dump(mode="json"),
            language, hotwords,
        )  # fmt: skip
        try:
            job = await asyncio.wrap_future(
                self._do(lambda: self._accepted(number, owner, asked, webhook))
            )
        except BaseException:
            with self._lock:
                self._waiting[owner] -= 1
            raise
        # From here on the recording is the store's.
        incoming.kept = False
        self._run(job)
        return job

    async def find(self, number: str, owner: str) -> tuple[Job, float | None]:
        """A job and the share of it that is done; None while it waits.

        Raises:
            Refused: there is none of this owner's.
        """
        job = await asyncio.wrap_future(self._do(lambda: self._store.job(number)))
        if job is None or job.owner != owner:
            raise Refused(404, "there is no such job", "ended jobs are deleted after a time")
        ticket = self._tickets.get(number)
        return job, ticket.share if ticket is not None and ticket.begun else None

    async def remove(self, job: Job) -> None:
        """Ends a job and deletes its result."""
        ticket = self._tickets.pop(job.id, None)
        if self._was_live(job) and ticket is not None:
            self._service.cancel(ticket)
        await asyncio.wrap_future(self._do(lambda: self._store.remove(job)))

    async def counts(self) -> dict[str, int]:
        """How many jobs there are, by status."""
        return await asyncio.wrap_future(self._do(self._store.by_status))

    async def attend(self) -> None:
        """Calls webhooks, takes results to the database and deletes old ones, until it is
        cancelled."""
        swept = 0.0
        async with httpx2.AsyncClient(timeout=TIMEOUT_SECONDS, follow_redirects=False) as client:
            while True:
                await asyncio.sleep(_TICK_SECONDS)
                try:
                    due = await asyncio.wrap_future(self._do(self._store.due))
                    await asyncio.gather(*(self._call(client, job) for job in due))
                    await self._store_results()
                    if time.monotonic() - swept > _SWEEP_SECONDS:
                        swept = time.monotonic()
                        seconds = 3600 * self._options.keep_hours
                        await asyncio.wrap_future(
                            self._do(lambda: self._store.remove_old(seconds))  # noqa: B023
                        )
                except SpeechMetaError as error:
                    # A full disk passes; the server goes on meanwhile.
                    log.error("jobs", extra={"kind": type(error).__name__})

    async def _store_results(self) -> None:
        """Takes to the database what it does not have; what it refuses waits for a minute."""
        keeper = self._keeper
        if keeper is None:
            return
        lacking = await asyncio.wrap_future(self._do(lambda: self._store.unstored(keeper.address)))
        now = time.monotonic()
        for finished, line in lacking:
            if self._refused.get(finished.id, now) > now:
                continue
            whole, stored = await keeper.written(str(finished.digest), line, finished.at)
            self._refused.pop(finished.id, None)
            if not stored:
                self._refused[finished.id] = now + _SWEEP_SECONDS
            place = keeper.address if stored else finished.stored
            await asyncio.wrap_future(
                self._do(partial(self._store.stored, finished.id, finished.digest, place, whole))
            )

    async def _call(self, client: httpx2.AsyncClient, job: Job) -> None:
        body, headers = self.webhooks.message(job)
        told = False
        # What a server of others does is no fault of ours.
        with contextlib.suppress(httpx2.HTTPError, httpx2.InvalidURL, OSError):
            answer = await client.post(str(job.webhook), content=body, headers=headers)
            told = 200 <= answer.status_code < 300
        last = job.deliveries >= len(RETRY_SECONDS)
        again = None if told or last else RETRY_SECONDS[job.deliveries]
        log.info("webhook", extra={"job": job.id, "kind": "told" if told else "not told"})
        await asyncio.wrap_future(self._do(lambda: self._store.delivered(job, again)))

    def _do(self, work: Callable[[], T]) -> Future[T]:
        return self._writer.submit(work)

    def _accepted(self, number: str, owner: str, asked: Asked, webhook: str | None) -> Job:
        if asked.kept:
            _on_the_disk(Path(asked.path))
        self._store.accept(number, owner, asked, webhook)
        job = self._store.job(number)
        if job is None:
            raise OutputError("the job could not be kept", "see the server's log")
        return job

    def _take_up(self, job: Job) -> None:
        if job.attempts >= MAX_ATTEMPTS:
            error = Refused(
                500,
                f"the server ended {job.attempts} times while it was at this recording",
                "look at the recording, or at the server's memory",
            )
            self._end(job, error)
            return
        self._waiting[job.owner] += 1
        self._run(job)

    def _run(self, job: Job) -> None:
        asked = job.asked
        self._live.add(job.id)
        try:
            options = CallOptions(**asked.options)
            ticket = self._service.submit(
                Path(asked.path),
                options,
                _JobListener(self, job),
                language=asked.language,
                hotwords=asked.hotwords,
                in_background=True,
                client=f"jobs {job.owner}",
            )
        except Stopped:
            return
        except SpeechMetaError as error:
            # Such as after a restart with another model.
            if self._was_live(job):
                self._end(job, error)
            return
        with self._lock:
            # It may have ended meanwhile.
            if job.id in self._live:
                self._tickets[job.id] = ticket

    def begun(self, job: Job) -> None:
        """The service begins with a job."""
        self._do(lambda: self._store.begun(job.id))

    def ended(self, job: Job, outcome: CallReport | SpeechMetaError) -> None:
        """The service is done with a job."""
        if isinstance(outcome, Stopped) or not self._was_live(job):
            return
        if isinstance(outcome, CallReport):
            seconds = time.time() - job.created
            self._metrics.call(outcome.audio.duration, len(outcome.turns), seconds)
        self._end(job, outcome)

    def _was_live(self, job: Job) -> bool:
        """Takes a job off the list of those that are waited for; whether it was on it."""
        with self._lock:
            self._tickets.pop(job.id, None)
            if job.id not in self._live:
                return False
            self._live.remove(job.id)
            self._waiting[job.owner] -= 1
            return True

    def _end(self, job: Job, outcome: CallReport | SpeechMetaError) -> None:
        asked = job.asked
        if isinstance(outcome, CallReport):
            outcome = renamed(outcome, asked.path, asked.name)
        else:
            self._metrics.error(type(outcome).__name__)
            outcome = without_our_paths(outcome, Incoming(Path(asked.path), asked.name, asked.kept))
        kind = "done" if isinstance(outcome, CallReport) else type(outcome).__name__
        log.info("job", extra={"job": job.id, "kind": kind})
        self._do(lambda: self._kept(job, outcome))

    def _kept(self, job: Job, outcome: CallReport | SpeechMetaError) -> None:
        try:
            digest = None
            if self._keeper is not None and isinstance(outcome, CallReport):
                digest = digest_of(job.asked.path)
            self._store.end(job, outcome, digest)
        except SpeechMetaError as error:
            # The job stays unfinished, and the next server does it again.
            log.error("a result could not be kept", extra={"job": job.id,
                      "kind": type(error).__name__})  # fmt: skip


class _JobListener:
    """Tells the runner of one job."""

    def __init__(self, runner: JobRunner, job: Job) -> None:
        self._runner = runner
        self._job = job

    def begun(self) -> None:
        self._runner.begun(self._job)

    def turns(self, turns: Sequence[Turn]) -> None:
        """Nobody reads them before the end."""

    def ended(self, outcome: CallReport | SpeechMetaError) -> None:
        self._runner.ended(self._job, outcome)


def _on_the_disk(path: Path) -> None:
    """Sees that a recording outlives a loss of power.

    Raises:
        OutputError: the disk does not take it.
    """
    try:
        for place in (path, path.parent, path.parent.parent):
            handle = os.open(place, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except OSError as error:
        raise output_error(error, "the recording") from error


__all__ = ["JobRunner"]
