"""The calls of many clients through one model: a thread around a `Flow`.

    service = Service(model, options, folder)
    service.start()                                      # the model is loaded when this returns
    ticket = service.submit(path, options, listener)     # from any thread
    service.cancel(ticket)

Turns of several calls share the model's batches. Clients, and calls of one client, take turns at
being first in them.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from speechmeta.batch.calls import CallJob
from speechmeta.batch.flow import Finished, Flow
from speechmeta.batch.job import ModelFacts, ModelOrder, PrepareTask, Waveform
from speechmeta.batch.workers import WorkerPool
from speechmeta.errors import SpeechMetaError
from speechmeta.pipeline.options import CallOptions, ModelOptions
from speechmeta.pipeline.report import EndedTurns
from speechmeta.schema import CallReport, ModelInfo, Turn
from speechmeta.server.fair_line import FairLine
from speechmeta.server.lanes import Lane, LaneModel, LaneTask, Wanted
from speechmeta.server.options import ServeOptions
from speechmeta.server.problems import Refused, Stopped, TookTooLong, as_told

if TYPE_CHECKING:
    from speechmeta.pipeline.analyzer import Analyzer

log = logging.getLogger("speechmeta.server")

SHARED_BATCH = 32
"""Turns that are decoded together, where `--batch-size` says nothing: enough to fill a processor,
few enough that a call that comes meanwhile waits for seconds only."""


SEEN_SECONDS = 60.0
"""For so long after its last call a client counts as one of several."""


class Listener(Protocol):
    """Who is told of a call; called in the service's thread, and not to wait in it."""

    def begun(self) -> None:
        """The recording is about to be read."""
        ...

    def turns(self, turns: Sequence[Turn]) -> None:
        """The next turns of the call, in the order of the report."""
        ...

    def ended(self, outcome: CallReport | SpeechMetaError) -> None:
        """The call's end; nothing follows."""
        ...


@dataclass(frozen=True)
class ServedJob(CallJob):
    """A call whose report names the model as it was told of the call."""

    info: ModelInfo | None = None

    def assemble(self, prepared: Any, records: Sequence[Any], model: ModelFacts) -> CallReport:
        facts = model if self.info is None else replace(model, info=self.info)
        return super().assemble(prepared, records, facts)


@dataclass(eq=False)
class Ticket:
    """One call on its way; `share` of its turns is decoded."""

    key: int
    path: Path
    job: ServedJob
    lane: Lane
    listener: Listener
    in_background: bool
    deadline: float | None
    seconds: float
    client: str = ""
    begun: bool = False
    share: float = 0.0
    turns: EndedTurns | None = None
    clips: int = 0


@dataclass(frozen=True)
class Load:
    """What the service has to do: calls that wait, are read, are decoded; turns that wait."""

    waiting: int
    reading: int
    decoding: int
    turns: int


class Service:
    """Takes recordings to reports, many at a time.

    Args:
        model: which to load, or one that is there.
        options: how much is taken on.
        folder: private; where turns wait for the model.
        observe_batch: told the rows of every batch.
    """

    def __init__(
        self,
        model: ModelOptions | Analyzer,
        options: ServeOptions,
        folder: Path,
        observe_batch: Callable[[int], None] | None = None,
    ) -> None:
        self._options = options
        self._task = _Observed(model, observe_batch)
        self._folder = folder
        self._inbox: deque[Callable[[], None]] = deque()
        self._waiting: FairLine[Ticket] = FairLine()
        self._background: FairLine[Ticket] = FairLine()
        self._seen: dict[str, float] = {}
        self._open: dict[int, Ticket] = {}
        self._clips: dict[int, Callable[[Finished], None]] = {}
        self._expecting: set[int] = set()
        self._keys = itertools.count(1)
        self._signal, self._wake = multiprocessing.Pipe(duplex=False)
        self._ready = threading.Event()
        self._stopping = False
        self._fault: SpeechMetaError | None = None
        self._load = Load(0, 0, 0, 0)
        self._flow: Flow | None = None
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="speechmeta-fields")
        self._thread = threading.Thread(target=self._serve, name="speechmeta-service", daemon=True)

    # For any thread.

    def start(self) -> None:
        """Loads the model and begins.

        Raises:
            ModelError, UsageError: the model cannot be loaded.
        """
        self._thread.start()
        self._ready.wait()
        if self._fault is not None:
            raise self._fault

    @property
    def ready(self) -> bool:
        """Whether calls are being analysed."""
        return self._ready.is_set() and self._fault is None and not self._stopping

    @property
    def is_broken(self) -> bool:
        """Whether the model or the thread ended by a fault; only another start helps."""
        return self._fault is not None

    @property
    def model(self) -> LaneModel:
        """The model; only once it is loaded."""
        if self._task.model is None:
            raise Refused(503, "the model is not loaded yet", "try again in a moment", 5)
        return self._task.model

    @property
    def load(self) -> Load:
        return self._load

    @property
    def idle(self) -> bool:
        """Whether the model has nothing to do and nothing urgent is expected, as far as another
        thread can tell."""
        return self._flow is not None and self._flow.idle and not self._expecting

    def expect(self, who: int, soon: bool) -> None:
        """Says whether somebody is about to have something urgent to decode."""
        if soon:
            self._expecting.add(who)
        else:
            self._expecting.discard(who)

    @property
    def batch_size(self) -> int:
        """Turns that are decoded together at most."""
        return self.model.analyzer.options.batch_size or SHARED_BATCH

    def submit(
        self,
        path: Path,
        options: CallOptions,
        listener: Listener,
        *,
        language: str | None = None,
        hotwords: str | None = None,
        in_background: bool = False,
        client: str = "",
    ) -> Ticket:
        """Takes a recording on.

        Args:
            client: for whom; clients take turns.
            in_background: one that can wait: there is always a reader left for others, and no
                limit of time.

        Raises:
            UsageError: the model does not give what is asked for.
            Stopped: it is being stopped, or its thread is gone.
        """
        if not self.ready:
            raise Stopped
        lane = self.model.lane(options, language, hotwords)
        info = self.model.facts_of(lane).info
        seconds = self._options.request_seconds
        deadline = None if in_background else time.monotonic() + seconds
        job = ServedJob(options, info)
        ticket = Ticket(
            next(self._keys), path, job, lane, listener, in_background, deadline, seconds, client
        )
        self._tell(lambda: self._take(ticket))
        return ticket

    def decode(
        self,
        clips: Sequence[Waveform],
        wanted: Sequence[Wanted],
        lane: Lane,
        done: Callable[[Finished], None],
        urgent: bool = False,
        optional: bool = False,
    ) -> int:
        """Decodes clips, (samples,) at 16 kHz each, in the batches of all others.

        Args:
            wanted: of each clip.
            done: told the end in the service's thread: `records` has one `DecodedRecord` or
                error a clip.
            urgent: before all that are not.
            optional: only if the model is idle; else `done` is told of neither records nor error.

        Returns:
            the number by which `forget` knows them.
        """
        key = next(self._keys)
        self._tell(lambda: self._decode(key, clips, wanted, lane, done, urgent, optional))
        return key

    def forget(self, key: int) -> None:
        """Ends the work for clips whose outcome nobody waits for; `done` is not told."""
        self._tell(lambda: self._forget(key))

    def cancel(self, ticket: Ticket) -> None:
        """Ends the work for a call that nobody waits for; its listener hears no more."""
        self._tell(lambda: self._drop(ticket))

    def stop(self) -> None:
        """Ends the thread and the processes; calls on their way are told so."""
        self._stopping = True
        self._tell(lambda: None)
        if self._thread.is_alive() or self._thread.ident is not None:
            self._thread.join(30)
        self._finisher.shutdown(cancel_futures=True)

    # For the service's thread alone.

    def _tell(self, order: Callable[[], None]) -> None:
        self._inbox.append(order)
        with contextlib.suppress(OSError):
            self._wake.send_bytes(b".")

    def _serve(self) -> None:
        try:
            flow = self._flow = self._made_flow()
        except Exception as error:
            self._broken(error)
            return
        try:
            while not self._stopping:
                self._hear()
                self._begin(flow)
                self._load = Load(
                    len(self._waiting) + len(self._background),
                    flow.preparing,
                    flow.decoding,
                    flow.waiting_turns,
                )
                for ended in flow.step((self._signal,), self._limit()):
                    self._finish(ended)
                self._give_up_late()
        except Exception as error:
            self._broken(error)
        finally:
            flow.close()
            stopped = Stopped()
            for ticket in [*self._waiting, *self._background, *self._open.values()]:
                ticket.listener.ended(stopped)
            for key, done in list(self._clips.items()):
                done(Finished(key, error=stopped))

    def _made_flow(self) -> Flow:
        readers = self._options.readers or default_readers()
        prepare: WorkerPool[int] = WorkerPool(
            PrepareTask(CallJob()), readers + 1, self._options.reading_seconds
        )
        model: WorkerPool[ModelOrder] = WorkerPool(
            self._task, 1, on_ready=self._on_facts, threaded=True
        )
        # So that the first request does not wait for processes to start.
        prepare.start(readers)
        model.start(1)
        flow = Flow(
            CallJob(), prepare, model, SHARED_BATCH, self._folder, fair=True,
            on_decoded=self._on_decoded,
        )  # fmt: skip
        self._readers = readers
        return flow

    def _on_facts(self, facts: ModelFacts) -> None:
        if self._flow is not None:
            self._flow.facts = facts
            self._flow.batch_size = self.batch_size
        self._ready.set()

    def _broken(self, error: Exception) -> None:
        kind = type(error).__name__
        log.error("the service ended", extra={"kind": kind})
        self._fault = error if isinstance(error, SpeechMetaError) else as_told((kind, ""))
        self._ready.set()

    def _hear(self) -> None:
        while self._signal.poll():
            self._signal.recv_bytes()
        while self._inbox:
            self._inbox.popleft()()

    def _take(self, ticket: Ticket) -> None:
        line = self._background if ticket.in_background else self._waiting
        if not ticket.in_background:
            self._seen[ticket.client] = time.monotonic()
        line.add(ticket.client, ticket)

    def _begin(self, flow: Flow) -> None:
        while self._ready.is_set() and (ticket := self._next(flow)) is not None:
            ticket.begun = True
            ticket.listener.begun()
            self._open[ticket.key] = ticket
            try:
                path = os.fsencode(ticket.path)
                flow.begin(ticket.key, path, ticket.job, ticket.lane, ticket.client)
            except SpeechMetaError as error:
                del self._open[ticket.key]
                ticket.listener.ended(error)

    def _next(self, flow: Flow) -> Ticket | None:
        """The call that is to be read next, if there is room for one.

        What a client sends may take long to read. So one that is not alone has half of the readers
        at most, and beyond them there is one more, for a client of which nothing is being read.
        Calls in the background leave a reader to those that somebody waits for.
        """
        ours = self._readers - flow.preparing
        now = time.monotonic()
        self._seen = {name: at for name, at in self._seen.items() if now - at < SEEN_SECONDS}
        share = self._readers if len(self._seen) < 2 else max(1, self._readers // 2)

        def may(client: str) -> bool:
            own = flow.reading(client)
            return flow.room(client) > 0 and (own == 0 or (ours > 0 and own < share))

        found = self._waiting.take(may)
        if found is None and ours > (self._readers > 1):
            found = self._background.take(lambda client: flow.room(client) > 0)
        return found

    def _decode(
        self,
        key: int,
        clips: Sequence[Waveform],
        wanted: Sequence[Wanted],
        lane: Lane,
        done: Callable[[Finished], None],
        urgent: bool,
        optional: bool,
    ) -> None:
        try:
            if self._flow is None:
                raise Stopped
            if optional and not self.idle:
                done(Finished(key))
                return
            self._clips[key] = done
            self._flow.decode(key, clips, wanted, lane, urgent)
        except SpeechMetaError as error:
            self._clips.pop(key, None)
            done(Finished(key, error=error))

    def _forget(self, key: int) -> None:
        if self._clips.pop(key, None) is not None and self._flow is not None:
            self._flow.drop(key)

    def _finish(self, ended: Finished) -> None:
        if ended.key in self._clips:
            self._clips.pop(ended.key)(ended)
            return
        ticket = self._open.pop(ended.key)
        if ended.report is not None:
            ticket.share = 1.0
            if self.model.analyzer.options.call_schema is None:
                ticket.listener.ended(ended.report)
            else:
                # A text model takes its time, and the turns of others need not wait for it.
                self._finisher.submit(self._fill, ticket, ended.report)
            return
        error = ended.error
        if error is None or isinstance(error, tuple):
            log.error("an analysis failed", extra={"kind": error[0] if error else "unknown"})
            error = error or ("Unknown", "")
        ticket.listener.ended(as_told(error))

    def _fill(self, ticket: Ticket, report: CallReport) -> None:
        """Adds the call fields that the server was started with."""
        outcome: CallReport | SpeechMetaError
        try:
            outcome = self.model.analyzer.finish(report)
        except SpeechMetaError as error:
            outcome = error
        except Exception as error:
            log.error("an analysis failed", extra={"kind": type(error).__name__})
            outcome = as_told((type(error).__name__, ""))
        ticket.listener.ended(outcome)

    def _on_decoded(self, key: int, state: Any, records: Sequence[Any]) -> None:
        ticket = self._open.get(key)
        if ticket is None:
            return
        ticket.share = sum(record is not None for record in records) / max(1, len(records))
        if ticket.job.options.redact:
            # What is private shows only beside the turns that follow.
            return
        if ticket.turns is None:
            facts = self.model.facts
            ticket.turns = EndedTurns(state, facts.label_sets, facts.abstain_below)
        known = list(itertools.takewhile(lambda item: item is not None, records[ticket.clips :]))
        ticket.clips += len(known)
        if turns := ticket.turns.add(known):
            ticket.listener.turns(turns)

    def _drop(self, ticket: Ticket) -> None:
        for line in (self._waiting, self._background):
            line.remove(ticket.client, ticket)
        if self._open.pop(ticket.key, None) is not None and self._flow is not None:
            self._flow.drop(ticket.key)

    def _limit(self) -> float | None:
        """Seconds until the next call is too late."""
        ends = [ticket.deadline for ticket in self._timed() if ticket.deadline is not None]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _timed(self) -> list[Ticket]:
        return [*self._waiting, *self._open.values()]

    def _give_up_late(self) -> None:
        now = time.monotonic()
        for ticket in self._timed():
            if ticket.deadline is not None and ticket.deadline <= now:
                self._drop(ticket)
                ticket.listener.ended(TookTooLong(ticket.seconds))


class _Observed(LaneTask):
    """Tells how many turns each batch has."""

    def __init__(
        self, load: ModelOptions | Analyzer, observe: Callable[[int], None] | None
    ) -> None:
        super().__init__(load)
        self._observe = observe

    def run(self, payload: Any, ask: Any) -> Any:
        if self._observe is not None and isinstance(payload, list):
            self._observe(len(payload))
        return super().run(payload, ask)


def default_readers() -> int:
    """Half of the cores, at least 2, so that one is left when another reads for long."""
    return max(2, min(8, (os.cpu_count() or 1) // 2))


__all__ = ["Listener", "Load", "Service", "Ticket", "default_readers"]
