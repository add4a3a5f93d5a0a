"""`speechmeta analyze`: files in, a table, JSON or files out."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechmeta.audio.source import STDIN_NAMES
from speechmeta.errors import SpeechMetaError, UsageError

from . import options
from .console import (
    TRACEBACK_VARIABLE,
    describe_fault,
    out_console,
    print_error,
    print_note,
    progress,
)
from .flags import CALL, MODEL, add_command

if TYPE_CHECKING:
    from speechmeta.pipeline.options import CallOptions, ModelOptions
    from speechmeta.schema import CallReport
    from speechmeta.writers import Writer
    from speechmeta.writers.base import TextWriter

_STDOUT = Path("-")

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
            help="Replace files that are there already.",
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
    if redact_audio is not None:
        _check_redact_audio(files, redact_audio, overwrite)
        call = call.updated({"redact": True})
    elif beep:
        raise UsageError("--beep needs --redact-audio", "add --redact-audio OUT.wav")
    from speechmeta.models.base import given_fields
    from speechmeta.pipeline.analyzer import Analyzer
    from speechmeta.pipeline.redaction.audio import Cover, write_redacted
    from speechmeta.writers.files import atomic_file

    from .table import print_call

    analyzer = Analyzer(**dict(model))
    # What the model does not give is said before the first file.
    fields = given_fields(analyzer.engine, call.fields)
    cover: Cover = "beep" if beep else "silence"

    def one(path: str) -> CallReport:
        report = analyzer.analyze_call(path, call)
        for writer, target in outputs.get(path, []):
            writer.write(report, target, overwrite=overwrite)
        if redact_audio is not None:
            spans = report.redactions or []
            with atomic_file(redact_audio, overwrite=overwrite) as file:
                write_redacted(path, file, spans, cover, raw=call.raw, limits=call.limits)
        return report

    codes = []
    for path, outcome in _analyze_each(files, one, quiet):
        if isinstance(outcome, SpeechMetaError):
            print_error(outcome.message, outcome.hint)
            codes.append(outcome.exit_code if len(files) == 1 else 1)
        elif not quiet:
            for warning in outcome.warnings:
                print_note(f"warning: {warning}")
            for _, target in outputs.get(path, []):
                print_note(f"wrote {target}")
        if as_json:
            _print_json(path, outcome, several=len(files) > 1)
        elif streamed is not None:
            if not isinstance(outcome, SpeechMetaError):
                print(streamed.text(outcome), end="", flush=True)
        elif output_dir is None and not isinstance(outcome, SpeechMetaError):
            print_call(out_console(), outcome, fields)
    return max(codes, default=0)


def _analyze_each(
    files: Sequence[str], analyze_one: Callable[[str], CallReport], quiet: bool
) -> Iterator[Outcome]:
    """Each file's report or error, as soon as it is known; no error ends the others."""
    with progress(len(files), quiet) as advance:
        for path in files:
            advance(os.path.basename(path))
            outcome: CallReport | SpeechMetaError
            try:
                outcome = analyze_one(path)
            except SpeechMetaError as error:
                outcome = error
            except Exception as error:
                if os.environ.get(TRACEBACK_VARIABLE):
                    traceback.print_exc()
                outcome = SpeechMetaError(*describe_fault(error, path))
            advance(step=1)
            yield path, outcome


def _stdout_writer(
    files: Sequence[str],
    formats: str | None,
    csv_excel: options.ExcelCountry | None,
    contradicted: bool,
) -> TextWriter:
    """The writer for `-o -`, checked before anything is analysed.

    Raises:
        UsageError: several formats, one that is no text, or several recordings in a format
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
        stem = "stdin" if path in STDIN_NAMES else Path(path).stem
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


def _print_json(path: str, outcome: CallReport | SpeechMetaError, several: bool) -> None:
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
