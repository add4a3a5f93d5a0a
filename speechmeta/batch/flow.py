"""Calls on their way from recordings to reports: prepared in worker processes, decoded together.

The turns of many calls fill one model batch, and a call ends when its last turn is decoded.
`local.LocalEngine` sends the files of a folder through, the server what its clients ask for.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

from speechmeta.batch.job import (
    Asked,
    Job,
    ModelFacts,
    ModelOrder,
    Prepared,
    SpilledTurn,
    Waveform,
)
from speechmeta.batch.scheduling import TurnQueue
from speechmeta.batch.spills import Spills
from speechmeta.batch.workers import Done, Failure, Question, WorkerPool
from speechmeta.errors import DecodingError, ModelError, SpeechMetaError
from speechmeta.schema import CallReport

QUEUED_SECONDS = 1800.0
"""No further file of a client is prepared while so many seconds of its turns wait for the model."""
OPEN_CALLS = 256
MAX_LOST_BATCHES = 5
"""So many model processes may die one after the other before the run gives up."""
URGENT_ROWS = 4
"""Most turns of others in a batch while turns that are urgent come: a few hundred milliseconds."""
URGENT_SECONDS = 30.0
"""For so long after the last of them more are expected."""
DROPPED_SECONDS = 10.0
"""A file that nobody waits for any more may be prepared for so long."""


@dataclass(frozen=True)
class Finished:
    """The end of a call.

    Attributes:
        key: as given to `begin` or `decode`.
        report: None for one that failed, or that had no job to assemble it.
        error: as in `workers.Done`.
        prepared: False for a call that failed before its turns were known.
        records: one record or error a turn, where there was no job.
    """

    key: int
    report: CallReport | None = None
    error: Failure | None = None
    prepared: bool = True
    records: tuple[Any, ...] | None = None


@dataclass
class _Call:
    key: int
    job: Job | None
    prepared: Prepared
    records: list[Any] = field(default_factory=list)
    remaining: int = 0
    in_model: int = 0
    dropped: bool = False


OnDecoded = Callable[[int, Any, Sequence[Any]], None]
"""Told after a batch, for each call in it: its key, what `Job.prepare` returned, and one record a
turn, None where it is still to come."""


class Flow:
    """Takes calls through preparation, the model and assembly; never more than has room.

    Args:
        job: what to do with a recording, unless `begin` names another.
        prepare: processes that run `PrepareTask`.
        model: runs `ModelTask`, or a task that takes what it takes.
        batch_size: turns that are decoded together.
        spill_folder: where turns wait for the model; local and roomy.
        fair: short calls need not wait for long ones, nor one client for another.
        on_decoded: see `OnDecoded`.
    """

    def __init__(
        self,
        job: Job,
        prepare: WorkerPool[int],
        model: WorkerPool[ModelOrder],
        batch_size: int,
        spill_folder: Path,
        fair: bool = False,
        on_decoded: OnDecoded | None = None,
    ) -> None:
        self._job = job
        self._prepare = prepare
        self._model = model
        self.batch_size = batch_size
        self._spills = Spills(spill_folder)
        self._on_decoded = on_decoded
        self._preparing: dict[int, tuple[Job, Hashable, str]] = {}
        self._unwanted: set[int] = set()
        self._calls: dict[int, _Call] = {}
        self._turns = TurnQueue(fair)
        self._urgent = TurnQueue()
        self._urgent_at = -math.inf
        self._single: deque[SpilledTurn] = deque()
        self._complete: deque[_Call] = deque()
        self._questions: deque[Asked] = deque()
        self._lost = 0
        self.facts: ModelFacts | None = None

    @property
    def preparing(self) -> int:
        """Calls whose recordings are being read."""
        return len(self._preparing)

    @property
    def decoding(self) -> int:
        """Calls whose turns are being decoded."""
        return len(self._calls)

    @property
    def waiting_turns(self) -> int:
        return len(self._turns) + len(self._urgent) + len(self._single)

    @property
    def busy(self) -> bool:
        return bool(self._preparing or self._calls)

    @property
    def idle(self) -> bool:
        """Whether the model would begin at once with what it is given now."""
        return not (self.waiting_turns or self._questions) and self._model.free() > 0

    def reading(self, client: str) -> int:
        """How many recordings of a client are being read, also those that were dropped."""
        return sum(other == client for _, _, other in self._preparing.values())

    def room(self, client: str = "") -> int:
        """How many calls of a client may begin now."""
        if self._turns.seconds(client) >= QUEUED_SECONDS or len(self._calls) >= OPEN_CALLS:
            return 0
        return self._prepare.free()

    def begin(
        self,
        key: int,
        path: bytes,
        job: Job | None = None,
        lane: Hashable = None,
        client: str = "",
    ) -> None:
        """Sends a recording on its way; there has to be room.

        Args:
            key: the call's own number.
            job: in place of the flow's.
            lane: what is asked of the model, as its task understands it.
            client: whose it is.

        Raises:
            OutputError: there is no room for its turns' waveforms.
        """
        self._preparing[key] = (job or self._job, lane, client)
        try:
            self._prepare.submit(key, (path, self._spills.place(key), job))
        except BaseException:
            del self._preparing[key]
            raise

    def decode(
        self,
        key: int,
        waveforms: Sequence[Waveform],
        asked: Sequence[Any],
        lane: Hashable = None,
        urgent: bool = False,
    ) -> None:
        """Sends clips, (samples,) at 16 kHz each, to the model; `Finished.records` answers.

        Args:
            asked: of each clip, as the model's task understands it.
            urgent: before all that are not, and not in one batch with them.

        Raises:
            OutputError: there is no room for them.
        """
        place = self._spills.place(key)
        with open(place, "wb") as file:
            for waveform in waveforms:
                file.write(waveform.astype("float32", copy=False).tobytes())
        lengths = tuple(len(waveform) for waveform in waveforms)
        self._enter(_Call(key, None, Prepared(None, lengths, tuple(asked))), lane, urgent)

    def drop(self, key: int) -> None:
        """Forgets a call: nothing more is heard of it, and no more is done for it."""
        if key in self._preparing:
            self._unwanted.add(key)
            self._prepare.hurry(key, DROPPED_SECONDS)
            return
        call = self._calls.pop(key, None)
        if call is None:
            return
        call.dropped = True
        self._turns.drop(key)
        self._urgent.drop(key)
        kept = [turn for turn in self._single if turn.call != key]
        self._single = deque(kept)
        self._complete = deque(item for item in self._complete if item is not call)
        if call.in_model:
            # Its waveforms are being read.
            self._calls[key] = call
        else:
            self._spills.release(key)

    def step(self, wake: Sequence[Any] = (), limit: float | None = None) -> Iterator[Finished]:
        """Does what can be done now, waits for something to happen, and yields what ended.

        Args:
            wake: connections that end the waiting too.
            limit: seconds after which it ends at the latest.

        Raises:
            ModelError: the model cannot be loaded, or its processes keep dying.
        """
        self._feed_model()
        self._wait(wake, limit)
        for done in self._prepare.collect():
            if isinstance(done, Question):
                self._questions.append(Asked(done.key, done.request))
            elif (failed := self._prepared(done)) is not None:
                yield failed
        for ended in self._model.collect():
            if isinstance(ended, Done):
                self._answered_or_decoded(ended)
        # Not before the model is known: its name stands in the report.
        while self._complete and self.facts is not None:
            yield self._assembled(self._complete.popleft(), self.facts)

    def close(self) -> None:
        """Ends all workers; whatever was being done is dropped."""
        self._prepare.close()
        self._model.close()
        for key in [*self._calls, *self._preparing]:
            self._spills.release(key)
        self._spills.close()

    def _feed_model(self) -> None:
        while self._model.free() > 0:
            if self._questions:
                # A file in preparation waits for it.
                asked = self._questions.popleft()
                self._model.submit(asked, asked)
                continue
            # After a failed batch its turns go one by one, so that one bad turn is found.
            batch = [self._single.popleft()] if self._single else self._next_batch()
            if not batch:
                return
            for turn in batch:
                self._calls[turn.call].in_model += 1
            self._model.submit(batch, batch)

    def _next_batch(self) -> list[SpilledTurn]:
        now = time.monotonic()
        if batch := self._urgent.take(self.batch_size):
            self._urgent_at = now
            return batch
        expected = now - self._urgent_at < URGENT_SECONDS
        return self._turns.take(min(URGENT_ROWS, self.batch_size) if expected else self.batch_size)

    def _wait(self, wake: Sequence[Any], limit: float | None) -> None:
        if self._complete and self.facts is not None:
            return
        now = time.monotonic()
        ends = [at - now for at in (self._prepare.deadline(), self._model.deadline()) if at]
        ends += [] if limit is None else [limit]
        timeout = max(0.0, min(ends)) if ends else None
        connection.wait([*self._prepare.waitables(), *self._model.waitables(), *wake], timeout)

    def _prepared(self, done: Done[int]) -> Finished | None:
        key = done.key
        job, lane, client = self._preparing.pop(key)
        if key in self._unwanted:
            self._unwanted.remove(key)
            self._spills.release(key)
            return None
        if done.error is not None:
            self._spills.release(key)
            return Finished(key, error=done.error, prepared=False)
        self._enter(_Call(key, job, done.value), lane, client=client)
        return None

    def _enter(self, call: _Call, lane: Hashable, urgent: bool = False, client: str = "") -> None:
        spill = self._spills.place(call.key)
        lengths = call.prepared.lengths
        call.records, call.remaining = [None] * len(lengths), len(lengths)
        self._calls[call.key] = call
        offset = 0
        asked = zip(lengths, call.prepared.asked, strict=True)
        for index, (length, wanted) in enumerate(asked):
            queue = self._urgent if urgent else self._turns
            queue.add(SpilledTurn(call.key, index, spill, offset, length, wanted, lane, client))
            offset += length
        if not lengths:
            self._complete.append(call)

    def _answered_or_decoded(self, done: Done[ModelOrder]) -> None:
        order = done.key
        if not isinstance(order, Asked):
            self._decoded(order, done)
        elif done.lost:
            self._count_lost()
            self._questions.append(order)
        else:
            self._prepare.answer(order.call, done)

    def _count_lost(self) -> None:
        self._lost += 1
        if self._lost > MAX_LOST_BATCHES:
            raise ModelError(
                "the model's process died again and again",
                "memory may be too small: fewer --model-processes or a smaller --batch-size",
            )

    def _decoded(self, batch: Sequence[SpilledTurn], done: Done[ModelOrder]) -> None:
        records: Sequence[Any] | None = None
        if done.error is None:
            self._lost = 0
            records = done.value
        else:
            if done.lost:
                self._count_lost()
            if len(batch) == 1:
                records = [_as_error(done.error)]
        touched: dict[int, _Call] = {}
        for row, turn in enumerate(batch):
            call = self._calls[turn.call]
            call.in_model -= 1
            if call.dropped:
                if not call.in_model:
                    del self._calls[turn.call]
                    self._spills.release(turn.call)
            elif records is None:
                self._single.append(turn)
            else:
                call.records[turn.index] = records[row]
                call.remaining -= 1
                touched[turn.call] = call
                if not call.remaining:
                    self._complete.append(call)
        if self._on_decoded is not None:
            for key, call in touched.items():
                self._on_decoded(key, call.prepared.state, call.records)

    def _assembled(self, call: _Call, facts: ModelFacts) -> Finished:
        del self._calls[call.key]
        self._spills.release(call.key)
        if call.job is None:
            return Finished(call.key, records=tuple(call.records))
        try:
            report = call.job.assemble(call.prepared.state, call.records, facts)
        except SpeechMetaError as error:
            return Finished(call.key, error=error)
        except Exception as error:
            # A bug that one call meets must not affect the others.
            return Finished(call.key, error=(type(error).__name__, str(error)))
        return Finished(call.key, report=report)


def _as_error(error: Failure) -> SpeechMetaError:
    if isinstance(error, SpeechMetaError):
        return error
    return DecodingError(f"a turn could not be decoded: {error[0]}: {error[1]}")
