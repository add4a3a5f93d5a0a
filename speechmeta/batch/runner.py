"""A folder run: find the files, keep the journal, write what every file became.

    run_folder("calls", "results", job, source, FolderOptions(formats=("html",)))

The engine that analyses the files is `local.LocalEngine` or `ray.RayEngine`; everything
that makes a run safe to kill is here and the same for both.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from speechmeta.audio.limits import Limits
from speechmeta.audio.rawformats import RawRules
from speechmeta.audio.remote import is_address, shown
from speechmeta.batch.discovery import Discovery, FoundFile, find_audio
from speechmeta.batch.job import Job, ModelSource
from speechmeta.batch.journal import (
    STATE_FOLDER,
    Counts,
    Entry,
    Journal,
    State,
    believed,
    journal_path,
    remove_journal,
    run_lock,
)
from speechmeta.batch.local import EngineOptions, LocalEngine, Outcome
from speechmeta.batch.remote_folder import find_remote_audio, folder_address
from speechmeta.batch.repair import repair_journal
from speechmeta.batch.storing import KnownJob, Storing, opened
from speechmeta.batch.watching import is_settled
from speechmeta.errors import OutputError, SpeechMetaError, UsageError, require_extra
from speechmeta.schema import CallReport
from speechmeta.writers import get_writer
from speechmeta.writers.failure import error_record
from speechmeta.writers.files import atomic_file, output_error, printable, remove_temporary
from speechmeta.writers.html import HtmlWriter, ReportAudio, relative_address
from speechmeta.writers.html_index import index_page
from speechmeta.writers.parquet import check_parquet, write_calls, write_speakers, write_turns
from speechmeta.writers.structured import compact, document

RESULTS = "results.jsonl"
TURNS, CALLS_TABLE, SPEAKERS = "turns.parquet", "calls.parquet", "speakers.parquet"
INDEX = "index.html"
CALLS = "calls"
"""Below the output folder: one file a call and format, in the tree of the recordings."""

_WRITTEN = (RESULTS, TURNS, CALLS_TABLE, SPEAKERS, INDEX)

NAME_BYTES = 240
"""Longest name of an output file; file systems take 255 bytes."""

_RUN_OVER = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
"""What a single file cannot be blamed for."""


@dataclass(frozen=True)
class FolderOptions:
    """What a folder run does.

    Attributes:
        include, exclude: globs, see `discovery.find_audio`.
        formats: names of writers; each call gets one file of each below `OUT/calls`.
        parquet: also write `OUT/turns.parquet`, all turns of all calls, `calls.parquet` and
            `speakers.parquet`.
        report: also write `OUT/index.html`, a row a call, and a page for each call.
        report_audio: whether these pages have the sound, see `writers.html.ReportAudio`.
        raw, limits: how recordings are read, for the sound of these pages.
        resume: go on with the run that the output folder holds, if it holds one.
        retry_failed: with `resume`, analyse failed files again.
        overwrite: forget the run that the output folder holds.
        repair: with `resume`, rebuild a damaged journal from what of it is whole.
        settled: seconds; files that changed less long ago are left for a later run.
        strict: files that are not recordings are errors, not merely counted.
        engine: `local` or `ray`.
        use: how the machine is used.
        settings: what results depend on, such as the model's name and the fields; a run
            can only be resumed with the same.
        finish: done with every report before it is written, one after the other and while the
            next calls are being analysed; such as filling in call fields.
        sink: URL of a database that results also go to, see `store.sink.Sink`; all of them, also
            those that a resumed run had finished.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    parquet: bool = False
    report: bool = False
    report_audio: ReportAudio = "link"
    raw: str | None = None
    limits: Limits | None = None
    resume: bool = False
    retry_failed: bool = False
    overwrite: bool = False
    repair: bool = False
    settled: float = 0.0
    strict: bool = False
    engine: Literal["local", "ray"] = "local"
    use: EngineOptions = field(default_factory=EngineOptions)
    settings: dict[str, Any] = field(default_factory=dict)
    finish: Callable[[CallReport], CallReport] | None = None
    sink: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        total, done, failed: files, including those that a resumed run had finished.
        audio_seconds: of the files finished by this run.
        bytes_done, bytes_total: of the files that this run has to do.
        seconds: since the first file was begun.
        path: of the file that ended last, printable; empty at the beginning.
        error: why it failed, or empty.
    """

    total: int
    done: int
    failed: int
    audio_seconds: float
    bytes_done: int
    bytes_total: int
    seconds: float
    path: str = ""
    error: str = ""


@dataclass(frozen=True)
class FolderResult:
    """What a run came to; counts are of the whole journal, `audio_seconds` of this run alone.

    Attributes:
        unstored: results that the database did not take; they are in `results` all the same.
    """

    counts: Counts
    found: Discovery
    audio_seconds: float
    seconds: float
    results: Path
    unstored: int = 0


class Engine(Protocol):
    """Turns files into outcomes, in any order, each file once."""

    def run(self, entries: Iterator[Entry], root: bytes) -> Iterator[Outcome]: ...
    def close(self) -> None: ...


def run_folder(
    root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    job: Job,
    source: ModelSource,
    options: FolderOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
    make_engine: Callable[[Job, ModelSource, EngineOptions, Path], Engine] | None = None,
) -> FolderResult:
    """Analyses every recording below `root`, a folder or an address, and writes the results
    below `output`.

    A file that fails becomes an error record and does not stop the run. The run may be
    killed at any moment: `resume` then does exactly the files that are missing.

    Args:
        make_engine: builds another engine than the one `options` names.

    Raises:
        UsageError: `root` is not a folder, the output holds another run's results, another
            run is writing there, or settings differ from those of the run to resume.
        OutputError: results cannot be written, such as on a full disk.
        ModelError: the model cannot be loaded.
        StoreError: the database cannot be reached when the run begins.
    """
    options = options or FolderOptions()
    for name in options.formats:
        get_writer(name)
    if options.parquet:
        check_parquet()
    if options.engine == "ray" and make_engine is None:
        require_extra("ray", "ray", "a run on a cluster")
    out = Path(output)
    place = _place_of(root, out)
    _make_folder(out / STATE_FOLDER)
    with run_lock(out), opened(options.sink) as sink:
        if options.repair:
            repair_journal(out)
        _claim(out, options)
        spill = _spill_folder(out)
        try:
            with Journal(out) as journal:
                storing = None if sink is None else Storing(sink, journal, place.root)
                formats = list(options.formats)
                journal.agree({"folder": place.name, "formats": formats, **options.settings})
                if options.retry_failed:
                    journal.retry_failed()
                found = Discovery()
                rules = getattr(job, "raw_rules", None)
                files = _recordings(place, out, options, found, rules)
                journal.add(item for item in files if _is_whole(place, item, options.settled))
                journal.count_others(found.others)
                known = job if storing is None else KnownJob(job)
                engine = (make_engine or _engine_of(options))(known, source, options.use, spill)
                run = _Run(place, out, journal, options, progress, storing)
                try:
                    run.work(engine)
                finally:
                    engine.close()
                unstored = 0 if storing is None else storing.catch_up()
                write_results(journal, out)
                if options.parquet:
                    write_tables(journal, out)
                if options.report:
                    write_index(journal, out)
                return FolderResult(
                    journal.counts(), found, run.audio_seconds, run.seconds, out / RESULTS, unstored
                )
        finally:
            shutil.rmtree(spill, ignore_errors=True)


@dataclass(frozen=True)
class _Place:
    """Where recordings lie.

    Attributes:
        root: a folder or an address; with a path below it in its last part, a recording.
        shown: the same, without what opens it.
        name: of the run, wherever it was begun.
    """

    root: bytes
    shown: bytes
    name: str
    remote: bool

    def source(self, relative: bytes) -> bytes | None:
        """The recording on this disk; None for one elsewhere."""
        return None if self.remote else os.path.join(self.root, relative)


def _place_of(root: str | os.PathLike[str], out: Path) -> _Place:
    if isinstance(root, str) and is_address(root):
        address = folder_address(root)
        name = shown(address)
        return _Place(os.fsencode(address), os.fsencode(name), printable(name), True)
    if not os.path.isdir(root):
        raise UsageError(f"{printable(root)} is not a folder", "give a folder of recordings")
    _keep_apart(Path(root), out)
    given = os.fsencode(Path(root))
    return _Place(given, given, printable(os.path.realpath(root)), False)


def _recordings(
    place: _Place, out: Path, options: FolderOptions, found: Discovery, rules: RawRules | None
) -> Iterator[FoundFile]:
    root, globs = os.fsdecode(place.root), (options.include, options.exclude)
    if place.remote:
        return find_remote_audio(root, *globs, found, options.strict, rules)
    return find_audio(root, *globs, (out, out / CALLS), found, options.strict, rules)


def _is_whole(place: _Place, item: FoundFile, seconds: float) -> bool:
    source = place.source(item.relative)
    if source is None:
        return True  # stores show what is complete
    try:
        changed = os.stat(source).st_mtime
    except OSError:
        return True  # what is wrong with it is said when it is read
    return not seconds or is_settled(changed, seconds)


def _engine_of(options: FolderOptions) -> Callable[[Job, ModelSource, EngineOptions, Path], Engine]:
    if options.engine == "ray":
        from speechmeta.batch.ray import RayEngine

        return RayEngine
    return LocalEngine


def _keep_apart(root: Path, out: Path) -> None:
    """Refuses outputs among the recordings: results would be taken for them, or replace them.

    Raises:
        UsageError: the output folder is that of the recordings, or these lie in `OUT/calls`.
    """
    place = out.resolve()
    recordings = root.resolve()
    if place == recordings:
        raise UsageError(
            f"{printable(out)} is the folder of the recordings",
            f"choose another for the results, such as -o {printable(out / 'results')}",
        )
    if (place / CALLS) in (recordings, *recordings.parents):
        raise UsageError(
            f"{printable(root)} lies where the files of each call are written",
            "choose another folder for the results",
        )


def check_target(out: Path, target: Path, source: bytes | None = None) -> None:
    """Sees that a call's file is below the output folder, and is not the recording itself.

    Raises:
        OutputError: a link leads elsewhere, or to the recording.
    """
    if not target.parent.resolve().is_relative_to(out.resolve()):
        raise OutputError(
            f"{printable(target)} is not in the output folder: a link leads elsewhere",
            "remove the link, and look who made it",
        )
    if source is not None and target.exists() and os.path.samefile(source, target):
        raise OutputError(
            f"{printable(target)} is the recording itself", "choose another folder for the results"
        )


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, path) from error


def _claim(out: Path, options: FolderOptions) -> None:
    """Clears what a killed or unwanted run left, or refuses to touch results that are not ours."""
    # A run that died at its start, such as for a model's misspelt name, holds no results that
    # could be lost, and its settings bind nobody.
    if options.overwrite or _came_to_nothing(out):
        _forget(out)
    elif not options.resume or not journal_path(out).exists():
        ours = (journal_path(out), *(out / name for name in _WRITTEN), out / CALLS)
        if any(path.exists() for path in ours):
            raise UsageError(
                f"{printable(out)} holds the results of another run",
                "--resume goes on with it, --overwrite replaces it",
            )
    # Only after a kill is there anything; the lock says that nobody else is writing.
    for leftover in (out / STATE_FOLDER).glob("spill-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    remove_temporary(out)


def _came_to_nothing(out: Path) -> bool:
    """Whether a run was begun in which no file was finished."""
    if not journal_path(out).exists():
        return False
    with Journal(out) as journal:
        counts = journal.counts()
    return counts.missing == counts.total and not (out / RESULTS).exists()


def _forget(out: Path) -> None:
    """Removes what the run of an output folder wrote: what its journal names, and nothing else."""
    try:
        for path in _outputs_of(out):
            check_target(out, path)
            path.unlink(missing_ok=True)
        remove_journal(out)
        for name in _WRITTEN:
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise output_error(error, error.filename or out) from error


def _outputs_of(out: Path) -> Iterator[Path]:
    if not journal_path(out).exists():
        return
    try:
        with Journal(out) as journal:
            extensions = [get_writer(name).extension for name in journal.settings["formats"]]
            for relative in journal.paths() if extensions else ():
                yield from (output_path(out, relative, extension) for extension in extensions)
    except (OutputError, UsageError, KeyError, TypeError):
        # A journal that cannot be read is replaced like any other, and nothing that it names
        # from there on is touched.
        return


def _spill_folder(out: Path) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="spill-", dir=out / STATE_FOLDER))
    except OSError as error:
        raise output_error(error, out / STATE_FOLDER) from error


class _Run:
    """One pass over the missing files."""

    def __init__(
        self,
        place: _Place,
        out: Path,
        journal: Journal,
        options: FolderOptions,
        progress: Callable[[Progress], None] | None,
        storing: Storing | None = None,
    ) -> None:
        self._place = place
        self._storing = storing
        self._out = out
        self._journal = journal
        self._options = options
        self._progress = progress
        self._begun = time.monotonic()
        self._counts = journal.counts()
        self._done, self._failed = self._counts.done, self._counts.failed
        self._bytes = 0
        self._bytes_total, _ = journal.totals()
        self.audio_seconds = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def work(self, engine: Engine) -> None:
        """Takes every missing file through the engine and commits what comes out."""
        self._tell()
        if not self._counts.missing:
            return
        outcomes = engine.run(self._journal.missing(), self._place.root)
        for outcome in outcomes:
            self._commit(outcome)

    def _commit(self, outcome: Outcome) -> None:
        entry = outcome.entry
        path = printable(os.path.join(self._place.shown, entry.relative))
        error = outcome.error
        report = outcome.report
        if report is not None:
            try:
                if self._options.finish is not None:
                    report = self._options.finish(report)
                seconds = self._write(entry, report, path)
            except SpeechMetaError as refused:
                cause = refused.__cause__
                if isinstance(cause, OSError) and cause.errno in _RUN_OVER:
                    raise
                error = refused
        if error is None and report is not None:
            self.audio_seconds += seconds
            message = "; ".join(_incomplete(report))
            self._failed += bool(message)
            self._done += not message
            if self._storing is not None and (refusal := self._storing.store(entry.id)):
                message = "; ".join(filter(None, [message, refusal]))
        elif error is not None:
            record = error_record(path, error)
            texts = record["error"]
            message = "; ".join(filter(None, [texts["message"], texts.get("hint")]))
            self._journal.finish(entry, "failed", compact(record))
            self._failed += 1
        self._bytes += entry.size
        self._tell(path, message)

    def _write(self, entry: Entry, report: CallReport, path: str) -> float:
        """Writes one call's files, then the journal: a kill between leaves the file missing."""
        audio = report.audio.model_copy(update={"path": path})
        warnings = [printable(text) for text in report.warnings]
        report = report.model_copy(update={"audio": audio, "warnings": warnings})
        for name in self._options.formats:
            writer = get_writer(name)
            if isinstance(writer, HtmlWriter):
                options = self._options
                writer = HtmlWriter(options.report_audio, options.raw, options.limits)
            target = output_path(self._out, entry.relative, writer.extension)
            # Before folders are made, which a link would put elsewhere.
            check_target(self._out, target, self._place.source(entry.relative))
            _make_folder(target.parent)
            # The folder is this run's own, and a killed run may have written the file already.
            writer.write(report, target, overwrite=True)
        line = compact(document(report))
        # What lacks a part counts as failed, so that --retry-failed looks for it again.
        state: State = "failed" if report.failures else "done"
        self._journal.finish(entry, state, line, report.audio.duration, digest=report.digest)
        return report.audio.duration

    def _tell(self, path: str = "", error: str = "") -> None:
        if self._progress is not None:
            self._progress(
                Progress(
                    total=self._counts.total,
                    done=self._done,
                    failed=self._failed,
                    audio_seconds=self.audio_seconds,
                    bytes_done=self._bytes,
                    bytes_total=self._bytes_total,
                    seconds=self.seconds,
                    path=path,
                    error=error,
                )
            )


def _incomplete(report: CallReport) -> list[str]:
    """What of a call could not be had; of many reasons the first ones."""
    lines = [f"no {item.part}: {printable(item.message)}" for item in report.failures]
    return [*lines[:3], f"{len(lines) - 3} more failures"] if len(lines) > 3 else lines


def output_path(out: Path, relative: bytes, extension: str) -> Path:
    """Where a call's file of one format goes: `OUT/calls/sub/name.wav.json`.

    The recording's own extension stays, as `a.wav` and `a.mp3` may lie side by side; a name
    that would be too long for the file system is cut and told apart by a hash.
    """
    folder, name = os.path.split(relative)
    tail = extension.encode("ascii")
    if len(name) + len(tail) > NAME_BYTES:
        digest = hashlib.sha256(name).hexdigest()[:16].encode("ascii")
        name = name[: NAME_BYTES - len(tail) - len(digest) - 1] + b"-" + digest
    return out / CALLS / os.fsdecode(os.path.join(folder, name + tail))


def write_results(journal: Journal, out: Path) -> None:
    """Writes `OUT/results.jsonl` from the journal."""
    with atomic_file(out / RESULTS, overwrite=True) as file:
        for line in journal.documents():
            file.write(line.encode("utf-8") + b"\n")


def write_tables(journal: Journal, out: Path) -> None:
    """Writes the tables of turns, calls and speakers from the journal."""
    writes = {TURNS: write_turns, CALLS_TABLE: write_calls, SPEAKERS: write_speakers}
    for name, write in writes.items():
        with believed(out), atomic_file(out / name, overwrite=True) as file:
            lines = map(json.loads, journal.documents())
            write((line for line in lines if "error" not in line), file)


def write_index(journal: Journal, out: Path) -> None:
    """Writes `OUT/index.html` from the journal; a call is known by its path below the folder."""
    root = str(journal.settings["folder"])

    def calls() -> Iterator[tuple[str, str, dict[str, Any]]]:
        for relative, line in journal.named_documents():
            page = output_path(out, relative, ".html")
            address = relative_address(os.path.relpath(page, out)) if page.exists() else ""
            yield printable(relative), address, json.loads(line)

    with believed(out):
        page = index_page(calls(), os.path.basename(root) or root)
    with atomic_file(out / INDEX, overwrite=True) as file:
        file.write(page.encode("utf-8"))
