"""`speechmeta analyze`: files in, a table, JSON or files out."""

from __future__ import annotations

import json
import os
import shlex
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechmeta.audio.remote import is_address, shown
from speechmeta.audio.source import STDIN_NAMES
from speechmeta.errors import SpeechMetaError, UsageError

from . import options
from .console import (
    TRACEBACK_VARIABLE,
    describe_fault,
    leave_at_once,
    out_console,
    print_error,
    print_note,
)
from .flags import CALL, MODEL, add_command
from .interrupts import Interrupts
from .progress import watching
from .startup import without_garbage_collection

if TYPE_CHECKING:
    from rich.console import Console

    from speechmeta.pipeline.analyzer import Analyzer
    from speechmeta.pipeline.options import CallOptions, ModelOptions
    from speechmeta.pipeline.progress import CallProgress
    from speechmeta.pipeline.stream import Step
    from speechmeta.schema import CallReport, PartFailure
    from speechmeta.writers import Writer
    from speechmeta.writers.base import TextWriter

    from .progress import Watch
    from .table import CallTable

_STDOUT = Path("-")
_FAILURES_SHOWN = 5
"""Kinds of parts that could not be had, each a line; of a long call there may be one a turn."""

Outcome = tuple[str, "CallReport | SpeechMetaError"]


def register(app: typer.Typer) -> None:
    add_command(app, "analyze", analyze, {"call": CALL, "model": MODEL})


def analyze(
    files: Annotated[
        list[str], typer.Argument(help="Audio files of any format; - is stdin.", metavar="FILE...")
    ],
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON, and nothing else, on stdout: one document, or one line for each of "
            "several files.",
            rich_help_panel=options.OUTPUT_PANEL,
        ),
    ] = False,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "-o",
            help="Write files into this folder instead of to the terminal; - is stdout.",
            show_default=False,
            rich_help_panel=options.OUTPUT_PANEL,
        ),
    ] = None,
    output_format: Annotated[
        str | None,
        typer.Option(
            "--output-format",
            "-f",
            help="Formats of these files, separated by commas: json, jsonl, csv, tsv, srt, vtt, "
            "txt, parquet, html; all is all but jsonl and parquet. Default: json.",
            show_default=False,
            rich_help_panel=options.OUTPUT_PANEL,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace existing files.",
            rich_help_panel=options.OUTPUT_PANEL,
        ),
    ] = False,
    redact_audio: Annotated[
        Path | None,
        typer.Option(
            "--redact-audio",
            help="Write the recording to this WAV file with everything private silenced; "
            "implies --redact. For one recording.",
            show_default=False,
            rich_help_panel=options.OUTPUT_PANEL,
        ),
    ] = None,
    beep: Annotated[
        bool,
        typer.Option(
            "--beep",
            help="With --redact-audio: a tone in place of silence.",
            rich_help_panel=options.OUTPUT_PANEL,
        ),
    ] = False,
    csv_excel: options.CsvExcel = None,
    report_audio: options.ReportAudio = options.ReportAudioChoice.EMBED,
    quiet: options.Quiet = False,
    *,
    call: CallOptions,
    model: ModelOptions,
) -> int:
    """Analyse recordings: who speaks when, what is said, and how the voices sound."""
    replaced = overwrite and (output_dir is not None or redact_audio is None)
    streamed: TextWriter | None = None
    outputs: dict[str, list[tuple[Writer, Path]]] = {}
    if output_dir == _STDOUT:
        streamed = _stdout_writer(files, output_format, csv_excel, as_json or overwrite)
    else:
        outputs = _plan_outputs(files, output_dir, output_format, csv_excel, replaced)
    outputs = {
        path: [(_with_sound(writer, report_audio, call), target) for writer, target in planned]
        for path, planned in outputs.items()
    }
    if redact_audio is not None:
        _check_redact_audio(files, redact_audio, overwrite)
        call = call.updated({"redact": True})
    elif beep:
        raise UsageError("--beep needs --redact-audio", "add --redact-audio OUT.wav")
    interrupts = Interrupts()
    work = _Work(call, model, outputs, overwrite, redact_audio, beep, interrupts)
    shows_table = not as_json and streamed is None and output_dir is None
    codes: list[int] = []
    interrupted: tuple[str, str] | None = None
    with interrupts, watching(quiet) as watch:
        try:
            # Nobody waits for a model to learn that a name is misspelt.
            if any(map(_may_be_there, files)):
                work.load()
            for path, outcome in _analyze_each(files, work, watch, shows_table):
                if isinstance(outcome, SpeechMetaError):
                    print_error(outcome.message, outcome.hint)
                    codes.append(outcome.exit_code if len(files) == 1 else 1)
                else:
                    for failure in outcome.failures[:_FAILURES_SHOWN]:
                        print_error(_failed(path, failure), failure.hint)
                    if rest := len(outcome.failures[_FAILURES_SHOWN:]):
                        print_error(f"{path}: {rest} more failures, see `failures` in the JSON")
                    codes.append(1 if outcome.failures else 0)
                    if not quiet:
                        for warning in outcome.warnings:
                            print_note(f"warning: {warning}")
                        for _, target in outputs.get(path, []):
                            print_note(f"wrote {target}")
                if as_json:
                    watch.print(partial(_print_json, path, outcome, len(files) > 1))
                elif streamed is not None and not isinstance(outcome, SpeechMetaError):
                    watch.print(partial(_print_text, streamed.text(outcome)))
        except KeyboardInterrupt:
            interrupted = _told_interruption(files, len(codes), work)
    if interrupted is not None:
        print_error(*interrupted)
        leave_at_once(130)
        return 130
    return max(codes, default=0)


def _with_sound(writer: Writer, audio: options.ReportAudioChoice, call: CallOptions) -> Writer:
    from speechmeta.writers import HtmlWriter

    if isinstance(writer, HtmlWriter):
        return HtmlWriter(audio.value, call.raw, call.limits)
    return writer


class _Work:
    """What is done with each recording.

    Attributes:
        fields: those that a report holds; known once the model is loaded.
        now: how far the recording is that is being analysed.
        written: its files that are complete.
    """

    def __init__(
        self,
        call: CallOptions,
        model: ModelOptions,
        outputs: dict[str, list[tuple[Writer, Path]]],
        overwrite: bool,
        redact_audio: Path | None,
        beep: bool,
        interrupts: Interrupts,
    ) -> None:
        self._call, self._model, self._outputs = call, model, outputs
        self._overwrite, self._redact_audio, self._beep = overwrite, redact_audio, beep
        self.interrupts = interrupts
        self.fields: Sequence[str] = ()
        self.now: CallProgress | None = None
        self.written: list[Path] = []
        self._analyzer: Analyzer | None = None

    def load(self) -> Analyzer:
        """Loads the model.

        Raises:
            SpeechMetaError: it cannot be, or does not give what is asked.
        """
        with without_garbage_collection():
            from speechmeta.pipeline.analyzer import Analyzer

            self._analyzer = Analyzer(**dict(self._model))
        # What the model does not give is said before the first file.
        self.fields = self._analyzer.asked_fields(self._call)
        self.interrupts.check()
        return self._analyzer

    def report(self, path: str, watch: Watch, table: bool) -> CallReport:
        """Analyses a recording, shows its turns as they end, and writes its files."""
        self.now, self.written = None, []
        if (analyzer := self._analyzer) is None:
            from speechmeta.audio.source import open_media

            open_media(path).close()  # says what is wrong with it
            analyzer = self.load()

        def told(progress: CallProgress) -> None:
            self.interrupts.check()
            self.now = progress
            watch.call(progress)

        steps = analyzer.analysis(path, self._call, told)
        shown: CallTable | None = None
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                report: CallReport = end.value
                break
            if table:
                if shown is None:
                    shown = self._table(step)
                    watch.print(partial(shown.begin, step.audio, analyzer.info.name))
                if step.turns:
                    watch.print(partial(shown.rows, step.turns))
        if shown is not None:
            watch.print(partial(shown.summary, report))
        for writer, target in self._outputs.get(path, []):
            writer.write(report, target, overwrite=self._overwrite)
            self.written.append(target)
        if self._redact_audio is not None:
            from speechmeta.pipeline.redaction.audio import Cover, write_redacted
            from speechmeta.writers.files import atomic_file

            cover: Cover = "beep" if self._beep else "silence"
            spans, call = report.redactions or [], self._call
            with atomic_file(self._redact_audio, overwrite=self._overwrite) as file:
                write_redacted(path, file, spans, cover, raw=call.raw, limits=call.limits)
        return report

    def _table(self, step: Step) -> CallTable:
        from .table import CallTable

        return CallTable(out_console().width, self.fields, step.speakers, step.audio.duration)


def _may_be_there(path: str) -> bool:
    return path in STDIN_NAMES or "://" in path or os.path.exists(path)


def _analyze_each(
    files: Sequence[str], work: _Work, watch: Watch, table: bool
) -> Iterator[Outcome]:
    """Each file's report or error, as soon as it is known; no error ends the others."""
    for number, path in enumerate(files, start=1):
        watch.begin(os.path.basename(path), number, len(files))
        outcome: CallReport | SpeechMetaError
        try:
            outcome = work.report(path, watch, table)
        except SpeechMetaError as error:
            work.interrupts.check()
            outcome = error
        except Exception as error:
            # What Ctrl-C broke in a library may come out as a fault of its own.
            work.interrupts.check()
            if os.environ.get(TRACEBACK_VARIABLE):
                traceback.print_exc()
            outcome = SpeechMetaError(*describe_fault(error, path))
        yield path, outcome


def _told_interruption(files: Sequence[str], finished: int, work: _Work) -> tuple[str, str]:
    """What was done when Ctrl-C came, and how to go on."""
    from .progress import clock

    if len(files) == 1:
        now = work.now
        if now is None or now.stage != "turns" or not now.duration:
            return "interrupted before the first turn", "the same command starts again"
        return (
            f"interrupted at {clock(now.seconds)} of {clock(now.duration)}, "
            f"{now.turns_done} of {now.turns} turns",
            _how_to_begin_anew(work.written),
        )
    left = [shlex.quote(path) for path in files[finished:]]
    named = " ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
    return (
        f"interrupted; {finished} of {len(files)} recordings were finished",
        # Of the one that was not, some files may be there.
        f"go on with {named}{' and --overwrite' if work.written else ''}",
    )


def _how_to_begin_anew(written: Sequence[Path]) -> str:
    if not written:
        return "no file was written; the same command starts again"
    names = ", ".join(str(path) for path in written)
    return f"written: {names}; the same command with --overwrite starts again"


def _failed(path: str, failure: PartFailure) -> str:
    """A line on what of a call could not be had."""
    numbers = failure.turns or []
    turns = f" of {len(numbers)} turn{'s' if len(numbers) != 1 else ''}" if numbers else ""
    return f"{path}: no {failure.part}{turns}: {failure.message}"


def _stdout_writer(
    files: Sequence[str],
    formats: str | None,
    csv_excel: options.ExcelCountry | None,
    contradicted: bool,
) -> TextWriter:
    """The writer for `-o -`, checked before anything is analysed.

    Raises:
        UsageError: several formats, one that is not text, or several recordings in a format
            that holds one.
    """
    from speechmeta.writers import get_writer
    from speechmeta.writers.base import TextWriter

    if contradicted:
        raise UsageError("-o - was given with --json or --overwrite", "leave one of them out")
    names = options.formats_of(formats or "json", csv_excel)
    writer = get_writer(names[0]) if len(names) == 1 else None
    if not isinstance(writer, TextWriter):
        raise UsageError(f"-o - cannot write {formats}", "name one format of text")
    if len(set(files)) > 1 and writer.name != "jsonl":
        raise UsageError(f"-o - writes one recording as {writer.name}", "for several add -f jsonl")
    return writer


def _plan_outputs(
    files: Sequence[str],
    folder: Path | None,
    formats: str | None,
    csv_excel: options.ExcelCountry | None,
    overwrite: bool,
) -> dict[str, list[tuple[Writer, Path]]]:
    """What is to be written for each file, checked before anything is analysed.

    Raises:
        UsageError: an unknown format, a format without a folder, or two files with one
            output. OutputError: the folder cannot be made, or a file is there already.
    """
    options.on_this_machine(folder)
    if folder is None:
        if formats is not None or overwrite:
            raise UsageError(
                "--output-format and --overwrite need --output-dir", "add -o FOLDER, or use --json"
            )
        return {}
    from speechmeta.errors import OutputError
    from speechmeta.writers import get_writer

    named = [get_writer(name) for name in options.formats_of(formats or "json", csv_excel)]
    writers = list(dict.fromkeys(named))
    stems: dict[str, str] = {}
    for path in dict.fromkeys(files):
        # Without the signature of an address, which opens it.
        place = shown(path) if is_address(path) else path
        stem = "stdin" if path in STDIN_NAMES else Path(place).stem
        if stem in stems:
            raise UsageError(
                f"{stems[stem]} and {path} would be written to the same file",
                "analyse them in two calls with different folders",
            )
        stems[stem] = path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made: {error.strerror}", "choose another folder"
        ) from error
    planned = {
        path: [(writer, folder / f"{stem}{writer.extension}") for writer in writers]
        for stem, path in stems.items()
    }
    recordings = {_identity(path) for path in files} - {None}
    for _, target in (item for items in planned.values() for item in items):
        if _identity(target) in recordings:
            raise OutputError(f"{target} is one of the recordings", "choose another folder")
    if not overwrite:
        for _, target in (item for items in planned.values() for item in items):
            if os.path.lexists(target):
                raise OutputError(f"{target} exists", "add --overwrite, or choose another folder")
    return planned


def _check_redact_audio(files: Sequence[str], target: Path, overwrite: bool) -> None:
    from speechmeta.errors import OutputError

    if any(path in STDIN_NAMES or Path(path).is_fifo() for path in files):
        raise UsageError(
            "--redact-audio reads the recording twice, and a stream can be read once",
            "save it to a file first",
        )
    if target.suffix.lower() != ".wav":
        raise UsageError(f"{target} does not end in .wav", "redacted audio is written as WAV")
    if len(files) > 1:
        raise UsageError("--redact-audio writes one recording", "analyse the recordings one by one")
    if _identity(target) in {_identity(path) for path in files} - {None}:
        raise OutputError(f"{target} is one of the recordings", "name another file")
    if os.path.lexists(target) and not overwrite:
        raise OutputError(f"{target} exists", "add --overwrite, or name another file")


def _identity(path: str | Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _print_text(text: str, console: Console) -> None:
    print(text, end="", flush=True)


def _print_json(
    path: str, outcome: CallReport | SpeechMetaError, several: bool, console: Console
) -> None:
    from speechmeta.writers import get_writer
    from speechmeta.writers.base import TextWriter

    if not isinstance(outcome, SpeechMetaError):
        writer = get_writer("jsonl" if several else "json")
        assert isinstance(writer, TextWriter)
        print(writer.text(outcome), end="", flush=True)
    elif several:
        from speechmeta.visible import visible_json
        from speechmeta.writers.failure import error_record
        from speechmeta.writers.files import printable

        record = error_record(printable(path), outcome)
        print(visible_json(json.dumps(record, ensure_ascii=False)), flush=True)
