"""What a folder run does with one file: prepare in a worker, decode in batches, assemble.

The run itself knows nothing of calls or models beyond these protocols.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from speechmeta.audio.remote import is_address
from speechmeta.errors import AudioError
from speechmeta.schema import FIELDS, CallReport, ModelInfo
from speechmeta.writers.files import output_error, printable

Waveform = npt.NDArray[np.float32]
Ask = Callable[[Any], Any]


class Spill(Protocol):
    """Takes a turn's waveform, (samples,) at 16 kHz, and what is asked of it (for `Model.decode`,
    picklable)."""

    def __call__(self, waveform: Waveform, asked: Any = None) -> None: ...


@dataclass(frozen=True)
class ModelFacts:
    """What assembling a report needs to know of the model.

    Attributes:
        label_sets: the values that each label can take.
        abstain_below: labels less probable than this, one number or one by field, are left out
            unless the run says otherwise.
        fields: what it gives.
    """

    info: ModelInfo
    label_sets: Mapping[str, Sequence[str]]
    abstain_below: float | Mapping[str, float] = 0.0
    fields: Sequence[str] = FIELDS


class Job(Protocol):
    """How a recording becomes a report. Picklable: `prepare` runs in other processes."""

    def warm_up(self) -> None:
        """Called once in every process that will prepare files."""
        ...

    def prepare(self, path: str, spill: Spill, ask: Ask) -> Any:
        """Decodes a file and finds its turns.

        Gives each turn's waveform, (samples,) at 16 kHz, to `spill`, in order, and returns
        everything else that `assemble` needs, without waveforms, picklable. `ask` puts a
        question to the model, see `Model.answer`.

        Raises:
            AudioError: the file cannot be used.
        """
        ...

    def assemble(self, prepared: Any, records: Sequence[Any], model: ModelFacts) -> CallReport:
        """Makes the report from what `prepare` returned and one record a turn.

        Raises:
            SpeechMetaError: a record is an error, so that the call has none.
        """
        ...


class Model(Protocol):
    """A loaded model."""

    @property
    def facts(self) -> ModelFacts: ...

    def decode(self, waveforms: Sequence[Waveform], asked: Sequence[Any]) -> Sequence[Any]:
        """One record, or one `SpeechMetaError`, for each waveform and what is asked of it."""
        ...

    def answer(self, request: Any) -> Any:
        """What `Job.prepare` asks, such as for embeddings of voices."""
        ...


class ModelSource(Protocol):
    """Where a model comes from. Picklable if it is to be loaded in other processes."""

    def load(self) -> Model: ...


@dataclass(frozen=True)
class Prepared:
    """What a worker hands back for one file.

    Attributes:
        state: of `Job.prepare`.
        lengths: samples of each turn in the spill file, one after the other as float32.
        asked: of each turn, as `Job.prepare` gave it to `spill`.
    """

    state: Any
    lengths: tuple[int, ...]
    asked: tuple[Any, ...]


@dataclass(frozen=True)
class PrepareTask:
    """Runs `Job.prepare` in a worker process; a payload is (path as bytes, spill path, job), where
    None stands for the task's own job."""

    job: Job

    def start(self) -> None:
        self.job.warm_up()

    def run(self, payload: tuple[bytes, str, Job | None], ask: Ask) -> Prepared:
        """Prepares one file; the spill file is written only if it has turns.

        Raises:
            AudioError: it cannot be used, or it changed while it was read.
            OutputError: there is no room for the turns' waveforms.
        """
        raw, spill_path, own = payload
        job = self.job if own is None else own
        path = os.fsdecode(raw)
        before = _state(path)
        with SpillFile(spill_path) as spill:
            state = job.prepare(path, spill, ask)
        if _state(path) != before:
            raise AudioError(
                f"{printable(path)} changed while it was read",
                "wait until it is complete, then --resume --retry-failed",
            )
        return Prepared(state, tuple(spill.lengths), tuple(spill.asked))


class SpillFile:
    """Takes waveforms, (samples,) float32 each, one after the other into a file.

    Raises:
        OutputError: there is no room for them; never mistaken for a fault of the recording.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lengths: list[int] = []
        self.asked: list[Any] = []
        try:
            self._file = open(path, "wb")  # noqa: SIM115
        except OSError as error:
            raise output_error(error, _place_of(path)) from error

    def __call__(self, waveform: Waveform, asked: Any = None) -> None:
        samples = np.ascontiguousarray(waveform, dtype=np.float32)
        try:
            self._file.write(samples.data)
            self._file.flush()
        except OSError as error:
            raise output_error(error, _place_of(self.path)) from error
        self.lengths.append(len(samples))
        self.asked.append(asked)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Everything was flushed, or its failure was raised.
        with contextlib.suppress(OSError):
            self._file.close()


def _place_of(path: str) -> str:
    """Where a spill file lies, or lay before it lost its name."""
    try:
        return os.readlink(path).removesuffix(" (deleted)")
    except OSError:
        return path


def _state(path: str) -> tuple[int, int]:
    if is_address(path):
        return 0, 0  # compared with what its store says of it when it is fetched
    try:
        status = os.stat(path)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise AudioError(f"cannot read {printable(path)}: {reason}") from error
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class SpilledTurn:
    """Where one turn's waveform lies: `offset` and `length` in samples of the spill file; and what
    is `asked` of it. Turns of one `lane` may share a batch; `client` is whose call it is."""

    call: int
    index: int
    spill: str
    offset: int
    length: int
    asked: Any = None
    lane: Hashable = None
    client: str = ""

    def read(self) -> Waveform:
        return np.fromfile(self.spill, np.float32, self.length, offset=4 * self.offset)


@dataclass(frozen=True)
class Asked:
    """A question of the file `call` to the model."""

    call: int
    request: Any


ModelOrder = Asked | Sequence[SpilledTurn]
"""What a model is given to do: to answer, or to decode."""


def limit_threads(count: int) -> None:
    """How many threads torch computes with in this process, also if it is imported later; at most
    as many as there are cores.

    Not every model needs torch, and its import takes seconds.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        # What torch takes from the environment when it is imported.
        os.environ["OMP_NUM_THREADS"] = str(count)
    else:
        torch.set_num_threads(count)


class ModelTask:
    """Loads a model; a payload is a list of `SpilledTurn` to decode, or an `Asked` to answer.

    Args:
        source: where the model comes from.
        threads: of torch in this process; None leaves them as they are.
    """

    def __init__(self, source: ModelSource, threads: int | None = None) -> None:
        self._source = source
        self._threads = threads
        self._model: Model | None = None

    def start(self) -> ModelFacts:
        if self._threads is not None:
            limit_threads(self._threads)
        self._model = self._source.load()
        return self._model.facts

    def run(self, payload: ModelOrder, ask: Ask) -> Any:
        if self._model is None:
            raise RuntimeError("the task was not started")
        if isinstance(payload, Asked):
            return self._model.answer(payload.request)
        waveforms = [turn.read() for turn in payload]
        return list(self._model.decode(waveforms, [turn.asked for turn in payload]))
