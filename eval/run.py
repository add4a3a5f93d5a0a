"""Running a system over a data set: batches by length, a journal as it goes, resuming.

Audio is decoded and resampled in background threads while the system works. Every clip ends
as one record: a file that cannot be read and a prediction that raises are records with an
`error`, never a gap.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from speechmeta.errors import DatasetError, OutputError, SpeechMetaError, UsageError

from .types import AnyPredictor, Clip, ClipPredictor, Dataset, Prediction, Record

if TYPE_CHECKING:
    from speechmeta.audio.loading import Audio

Progress = Callable[[int, int, Record], None]
"""Called after every clip with how many are done, how many there are, and the record."""


@dataclass(frozen=True)
class RunOptions:
    """How a run goes about it.

    Attributes:
        batch_size: most clips in one call of the system.
        batch_seconds: most seconds of a batch with its padding: clips times the longest.
        loaders: threads that decode audio.
        telephone: the system hears every clip over a telephone line (`over_the_telephone`).
    """

    batch_size: int = 8
    batch_seconds: float = 160.0
    loaders: int = 2
    telephone: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "batch_seconds", "loaders"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} is {getattr(self, name)}", "it has to be positive")


def run(
    dataset: Dataset,
    predictor: AnyPredictor,
    journal: Journal | None = None,
    options: RunOptions | None = None,
    progress: Progress | None = None,
) -> list[Record]:
    """Predicts every clip that the journal does not hold yet.

    Returns:
        one record per clip of the data set, in its order.

    Raises:
        OutputError: the journal cannot be written.
    """
    options = options or RunOptions()
    done = dict(journal.records) if journal is not None else {}
    wanted = [clip for clip in dataset.clips if clip.id not in done]
    writing: AbstractContextManager[object] = nullcontext() if journal is None else journal
    with writing:
        for batch in _batches(_longest_first(wanted), predictor, options):
            for record in _predict(predictor, batch):
                done[record.id] = record
                if journal is not None:
                    journal.write(record)
                if progress is not None:
                    progress(len(done), len(dataset.clips), record)
    return [done[clip.id] for clip in dataset.clips]


class Journal(AbstractContextManager["Journal"]):
    """The per-clip records of a run as JSON Lines; the first line says which run it is.

    Args:
        path: the file.
        run: JSON-ready facts that have to be the same for records to be taken over.
        resume: take over the clips that an interrupted run finished; failed ones are tried
            again. Without it, an existing file is replaced.

    Raises:
        DatasetError: the file to resume is of another run, or is damaged.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], *, resume: bool = False) -> None:
        self.path = path
        self.run = json.loads(json.dumps(run))
        self.records: dict[str, Record] = {}
        self._file: IO[str] | None = None
        if resume and path.exists():
            for record in read_journal(path, self.run):
                self.records[record.id] = record
        self.records = {key: r for key, r in self.records.items() if r.error is None}

    def __enter__(self) -> Self:
        # Written anew, so that a line cut off by a crash and outdated failures are gone.
        temporary = self.path.with_name(self.path.name + ".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                file.write(_line({"run": self.run}))
                file.writelines(_line(record.to_json()) for record in self.records.values())
            temporary.replace(self.path)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}", "check -o") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, record: Record) -> None:
        """Appends a record, and brings it to the disk's care at once.

        Raises:
            OutputError: the journal is not open, or the disk is full.
        """
        if self._file is None:
            raise OutputError(f"{self.path} is not open", "enter the journal first")
        try:
            self._file.write(_line(record.to_json()))
            self._file.flush()
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}", "check -o") from error


def read_journal(path: Path, run: Mapping[str, Any] | None = None) -> Iterator[Record]:
    """The records of a journal; a last line that was cut off is left out.

    Args:
        run: what the first line has to say; None to take any run.

    Raises:
        DatasetError: the file is of another run, or damaged before its last line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {path}: {error}", "check the file") from error
    for number, line in enumerate(lines, 1):
        try:
            data = json.loads(line)
            if number == 1:
                found = data["run"]
            else:
                yield Record.from_json(data)
                continue
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and number > 1:
                return
            raise DatasetError(
                f"{path}, line {number} is not a record of a run", "run without --resume"
            ) from error
        if run is not None and found != run:
            different = sorted(k for k in {*found, *run} if found.get(k) != run.get(k))
            raise DatasetError(
                f"{path} is of another run: {', '.join(different)} differ",
                "give the same options, another -o, or leave out --resume",
            )


def _line(data: Mapping[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False) + "\n"


def _longest_first(clips: Sequence[Clip]) -> list[Clip]:
    # Clips of like length share a batch, and what may run out of memory does so at once.
    # Where durations are unknown, the files' sizes order them as well.
    if all(clip.duration is not None for clip in clips):
        return sorted(clips, key=lambda clip: clip.duration or 0.0, reverse=True)
    return sorted(clips, key=lambda clip: _size(clip.audio), reverse=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@dataclass(frozen=True)
class _Loaded:
    clip: Clip
    audio: Audio | None
    error: str | None = None


def _load(clip: Clip, telephone: bool) -> _Loaded:
    from speechmeta.audio.loading import SAMPLE_RATE, Audio, load_audio

    try:
        audio = load_audio(clip.audio)
        if audio.channels > 1 or audio.sample_rate != SAMPLE_RATE:
            mono = Audio(audio.mono()[None], audio.sample_rate, audio.path, audio.codec)
            audio = Audio(mono.resampled(SAMPLE_RATE), SAMPLE_RATE, audio.path, audio.codec)
        if telephone:
            from .condition import over_the_telephone

            audio = over_the_telephone(audio)
        return _Loaded(clip, audio)
    except SpeechMetaError as error:
        return _Loaded(clip, None, str(error))


def _batches(
    clips: Sequence[Clip], predictor: AnyPredictor, options: RunOptions
) -> Iterator[list[_Loaded]]:
    if isinstance(predictor, ClipPredictor) and not predictor.needs_audio:
        rest = iter(clips)
        while part := list(islice(rest, options.batch_size)):
            yield [_Loaded(clip, None) for clip in part]
        return
    batch: list[_Loaded] = []
    longest = 0.0
    for item in _prefetched(clips, options):
        if item.audio is None:
            yield [item]
            continue
        longest = max(longest, item.audio.duration)
        if batch and (
            len(batch) >= options.batch_size or longest * (len(batch) + 1) > options.batch_seconds
        ):
            yield batch
            batch, longest = [], item.audio.duration
        batch.append(item)
    if batch:
        yield batch


def _prefetched(clips: Sequence[Clip], options: RunOptions) -> Iterator[_Loaded]:
    # At most three batches of audio are in memory.
    rest = iter(clips)
    load = partial(_load, telephone=options.telephone)
    with ThreadPoolExecutor(options.loaders, thread_name_prefix="speechmeta-load") as pool:
        waiting: deque[Future[_Loaded]] = deque(
            pool.submit(load, clip) for clip in islice(rest, 2 * options.batch_size)
        )
        try:
            while waiting:
                item = waiting.popleft().result()
                waiting.extend(pool.submit(load, clip) for clip in islice(rest, 1))
                yield item
        finally:
            # Left early, by an interruption: what is not begun need not be.
            pool.shutdown(wait=False, cancel_futures=True)


def _predict(predictor: AnyPredictor, batch: Sequence[_Loaded]) -> list[Record]:
    if batch[0].error is not None:
        return [Record.of(item.clip, Prediction(error=item.error), None, 0.0) for item in batch]
    start = time.perf_counter()
    try:
        predictions = list(_call(predictor, batch))
        if len(predictions) != len(batch):
            raise ValueError(f"{len(batch)} clips gave {len(predictions)} predictions")
    except Exception as error:
        # A system under test may raise anything. Its batch mates have to be found out.
        if len(batch) > 1:
            return [record for item in batch for record in _predict(predictor, [item])]
        text = str(error)
        if not isinstance(error, SpeechMetaError):
            text = f"{type(error).__name__}: {text}"
        predictions = [Prediction(error=" ".join(text.split()))]
    spent = time.perf_counter() - start
    lengths = [item.audio.duration if item.audio else item.clip.duration for item in batch]
    total = sum(length or 0.0 for length in lengths)
    return [
        Record.of(
            item.clip,
            prediction,
            length,
            # A batch's time is shared out by length.
            spent * ((length or 0.0) / total if total else 1 / len(batch)),
        )
        for item, prediction, length in zip(batch, predictions, lengths, strict=True)
    ]


def _call(predictor: AnyPredictor, batch: Sequence[_Loaded]) -> Sequence[Prediction]:
    if isinstance(predictor, ClipPredictor):
        return predictor.predict_clips([item.clip for item in batch], [i.audio for i in batch])
    return predictor.predict([item.audio for item in batch if item.audio is not None])
