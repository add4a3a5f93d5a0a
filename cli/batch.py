"""`speechmeta batch`: a folder in, one line a file out; may be killed and resumed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechmeta.errors import UsageError
from speechmeta.visible import visible_line

from . import options
from .console import out_console, print_error, print_note
from .flags import CALL, MODEL, STORE, add_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from speechmeta.batch.runner import FolderResult, Progress
    from speechmeta.batch.summary import Summary
    from speechmeta.pipeline.options import CallOptions, ModelOptions
    from speechmeta.store.options import StoreOptions

RUN_PANEL = "Run"
STDOUT = Path("-")


class EngineName(StrEnum):
    """Where files are analysed."""

    LOCAL = "local"
    RAY = "ray"


def register(app: typer.Typer) -> None:
    add_command(app, "batch", batch, {"call": CALL, "model": MODEL, "store": STORE})


def batch(
    folder: Annotated[
        str | None,
        typer.Argument(
            help="Folder of recordings, at any depth; or an address such as s3://bucket/calls.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "-o",
            help="Folder for the results: results.jsonl, and what else is asked for.",
            show_default=False,
            rich_help_panel=options.OUTPUT_PANEL,
        ),
    ] = None,
    output_format: Annotated[
        str | None,
        typer.Option(
            "--output-format",
            "--format",
            "-f",
            help="Also write one file per call in these formats, separated by commas: json, jsonl, "
            "csv, tsv, srt, vtt, txt, parquet, html; all means all but jsonl and parquet.",
            show_default=False,
            rich_help_panel=options.OUTPUT_PANEL,
        ),
    ] = None,
    csv_excel: options.CsvExcel = None,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Also write index.html, a page of all calls, and a page for each call; without "
            "DIR, the page of all calls of the run that -o holds.",
            rich_help_panel=options.OUTPUT_PANEL,
        ),
    ] = False,
    report_audio: options.ReportAudio = options.ReportAudioChoice.LINK,
    parquet: Annotated[
        bool,
        typer.Option(
            "--parquet",
            help="Also write turns.parquet, calls.parquet and speakers.parquet, of all calls; "
            "without DIR, of the run that -o holds.",
            rich_help_panel=options.OUTPUT_PANEL,
        ),
    ] = False,
    summary: Annotated[
        bool,
        typer.Option(
            "--summary",
            help="Print label distributions and failures at the end; without DIR, those of the "
            "run that -o holds.",
            rich_help_panel=options.OUTPUT_PANEL,
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print the summary as one JSON document on stdout.",
            rich_help_panel=options.OUTPUT_PANEL,
        ),
    ] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="Only files that match this glob; may be repeated. A glob with / is "
            "matched against the path below DIR.",
            show_default=False,
            rich_help_panel=RUN_PANEL,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="Skip files and folders that match this glob; may be repeated.",
            show_default=False,
            rich_help_panel=RUN_PANEL,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the run in the output folder: analyse the missing files only.",
            rich_help_panel=RUN_PANEL,
        ),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="With --resume, analyse failed files again.",
            rich_help_panel=RUN_PANEL,
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace the results that the output folder holds.",
            rich_help_panel=RUN_PANEL,
        ),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="With --resume, rebuild a damaged journal from the results that are intact.",
            rich_help_panel=RUN_PANEL,
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Treat files that are not recordings as errors; otherwise they are only counted.",
            rich_help_panel=RUN_PANEL,
        ),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Go on: analyse recordings as they come into DIR, when nothing has been written "
            "to them for 10 seconds; Ctrl-C ends it. Begun again, it goes on where it was.",
            rich_help_panel=RUN_PANEL,
        ),
    ] = False,
    engine: Annotated[
        EngineName,
        typer.Option(help="On this machine, or on a Ray cluster.", rich_help_panel=RUN_PANEL),
    ] = EngineName.LOCAL,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that decode audio; with --engine ray, for each model. Default: half "
            "of the cores, at most 8.",
            show_default=False,
            rich_help_panel=RUN_PANEL,
        ),
    ] = None,
    model_processes: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of extra processes that each load the model; 0 keeps it in this one.",
            rich_help_panel=RUN_PANEL,
        ),
    ] = 0,
    actors: Annotated[
        int,
        typer.Option(
            min=0,
            help="With --engine ray, the number of models; 0 for one on each GPU.",
            rich_help_panel=RUN_PANEL,
        ),
    ] = 0,
    timeout: Annotated[
        float,
        typer.Option(
            min=1.0,
            help="Seconds that reading one file may take before it counts as hung.",
            rich_help_panel=RUN_PANEL,
        ),
    ] = 600.0,
    quiet: options.Quiet = False,
    *,
    call: CallOptions,
    model: ModelOptions,
    store: StoreOptions,
) -> int:
    """Analyse every recording in a folder, with one result for each file.

    Files that fail become error records and do not stop the run. It can be killed at any
    moment; --resume then finishes exactly what is missing.
    """
    if output is None:
        raise UsageError("no output folder was given", "add -o OUT")
    if output == STDOUT:
        raise UsageError(
            "a folder run keeps a journal, so it writes into a folder",
            "give one, and print its results.jsonl; or analyze FILE... -o - -f jsonl",
        )
    options.on_this_machine(output)
    if folder is None:
        if not (summary or report or parquet):
            raise UsageError("no folder was given", "speechmeta batch DIR -o OUT")
        if report or parquet:
            from speechmeta.batch.again import write_again

            for path in write_again(output, report=report, parquet=parquet):
                if not quiet:
                    print_note(f"wrote {path}")
        return _print_summary(output, as_json) if summary else 0
    if as_json and not summary:
        raise UsageError("--json prints the summary", "add --summary")
    if retry_failed and not resume:
        raise UsageError("--retry-failed needs --resume", "add --resume")
    if repair and not resume:
        raise UsageError("--repair needs --resume", "add --resume")
    if watch and overwrite:
        raise UsageError("--watch goes on with what is there", "leave --overwrite out")
    if resume and overwrite:
        raise UsageError("--resume and --overwrite contradict each other", "give one of them")

    from speechmeta.batch.calls import AnalyzerSource, CallJob
    from speechmeta.batch.local import EngineOptions
    from speechmeta.batch.runner import FolderOptions, run_folder
    from speechmeta.batch.watching import SETTLED_SECONDS
    from speechmeta.pipeline.callfields.making import filler_of

    filler = filler_of(model)
    job = CallJob(call)
    source = AnalyzerSource(model, call)
    formats = options.formats_of(output_format or "", csv_excel)
    run = FolderOptions(
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        formats=tuple(dict.fromkeys([*formats, *(["html"] if report else [])])),
        parquet=parquet,
        report=report,
        report_audio=report_audio.value,
        raw=call.raw,
        limits=call.limits,
        resume=resume or watch,
        settled=SETTLED_SECONDS if watch else 0.0,
        retry_failed=retry_failed,
        overwrite=overwrite,
        repair=repair,
        strict=strict,
        engine=engine.value,
        use=EngineOptions(
            workers=workers or default_workers(),
            timeout=timeout,
            batch_size=model.batch_size or EngineOptions().batch_size,
            model_processes=model_processes,
            actors=actors,
        ),
        settings={**job.settings(), **source.settings()},
        finish=None if filler is None else filler.fill,
        sink=store.sink,
    )
    failed = 0

    def once() -> None:
        nonlocal run, failed
        with _progress_bar(quiet) as advance:
            result = run_folder(folder, output, job, source, run, advance)
        failed = result.counts.failed + result.unstored
        run = replace(run, resume=True, overwrite=False, retry_failed=False, repair=False)
        if not quiet and (result.audio_seconds or not watch):
            _print_result(result)
        if result.unstored:
            print_error(
                f"{result.unstored} results are not in the database",
                "they are in results.jsonl; the same command with --resume tries again",
            )

    try:
        if watch:
            _watch(folder, output, once, model, quiet)
        else:
            once()
    except KeyboardInterrupt:
        print_error("interrupted", "--resume finishes the missing files")
        return 130
    if summary:
        _print_summary(output, as_json)
    return 1 if failed else 0


def _watch(
    folder: str, output: Path, once: Callable[[], None], model: ModelOptions, quiet: bool
) -> None:
    """Runs now and whenever recordings have come; Ctrl-C between two runs is a good end."""
    from speechmeta.batch.watching import watch
    from speechmeta.pipeline.analyzer import Analyzer

    # Held so that every run finds it loaded.
    held = Analyzer(**dict(model))
    waits = False

    def run() -> None:
        nonlocal waits
        waits = False
        once()

    def sleep(seconds: float) -> None:
        nonlocal waits
        waits = True
        time.sleep(seconds)

    if not quiet:
        print_note(f"watching {folder}; Ctrl-C ends it")
    try:
        watch(folder, output, run, sleep=sleep)
    except KeyboardInterrupt:
        if not waits:
            raise
    finally:
        del held


def default_workers() -> int:
    """Processes that decode audio: half of the cores leaves the other half to the model."""
    import os

    return max(1, min(8, (os.cpu_count() or 1) // 2))


@contextmanager
def _progress_bar(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Draws where the run stands on stderr, with audio seconds per second and time left.

    Failures are printed above the bar as they happen. Without a terminal there are only
    those, and a line every ten percent.
    """
    if not sys.stderr.isatty():
        yield _Lines(quiet)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.fields[files]}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[speed]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False),
    )
    console = Console(stderr=True, highlight=False)
    if quiet:
        yield _Lines(quiet)
        return
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0, files="looking for recordings", speed="", left="")

        def advance(now: Progress) -> None:
            if now.error:
                console.print(failure(now), markup=False, style="red")
            ended = now.done + now.failed
            failed = f", {now.failed} failed" if now.failed else ""
            bar.update(
                task,
                total=max(now.total, 1),
                completed=ended,
                files=f"{ended}/{now.total} files{failed}",
                speed=f"{speed(now):.1f} s audio/s" if now.audio_seconds else "",
                left=f"{clock(seconds_left(now))} left" if seconds_left(now) is not None else "",
            )

        yield advance


class _Lines:
    """Progress without a terminal: failures, and a line every tenth of the way."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._tenth = 0

    def __call__(self, now: Progress) -> None:
        if now.error:
            print_error(failure(now))
        ended = now.done + now.failed
        tenth = 10 * ended // now.total if now.total else 0
        if not self._quiet and self._tenth < tenth < 10:
            self._tenth = tenth
            left = seconds_left(now)
            more = f", {clock(left)} left" if left is not None else ""
            print_note(f"{ended}/{now.total} files, {speed(now):.1f} s audio/s{more}")


def failure(now: Progress) -> str:
    """The file and what is wrong with it; most messages name the file themselves."""
    return visible_line(now.error if now.path in now.error else f"{now.path}: {now.error}")


def speed(now: Progress) -> float:
    """Seconds of audio that are finished in a second."""
    return now.audio_seconds / now.seconds if now.seconds > 0 else 0.0


def seconds_left(now: Progress) -> float | None:
    """The time that the remaining bytes will take at the rate so far.

    None before the first success: files that fail say nothing of those that do not.
    """
    if not now.audio_seconds or not now.bytes_done:
        return None
    return (now.bytes_total - now.bytes_done) * now.seconds / now.bytes_done


def clock(seconds: float | None) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, second = divmod(round(seconds or 0.0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"


def _print_result(result: FolderResult) -> None:
    for note in result.found.notes or []:
        print_note(f"warning: {note}")
    counts = result.counts
    if result.found.others:
        print_note(f"not recordings, left out: {listed_kinds(result.found.others)}")
    if not counts.total:
        print_note("no recordings found")
        return
    rate = result.audio_seconds / result.seconds if result.seconds > 0 else 0.0
    did = f"; this run {clock(result.audio_seconds)} of audio at {rate:.1f} times real time"
    print_note(
        f"{counts.done} files done, {counts.failed} failed"
        + (did if result.audio_seconds else "")
        + f"; wrote {result.results}"
    )


def listed_kinds(others: Mapping[str, int]) -> str:
    """`3 .txt, 1 .pdf`, the most frequent first."""
    ordered = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {kind}" for kind, count in ordered)


def _print_summary(output: Path, as_json: bool) -> int:
    from speechmeta.batch.summary import summary_of

    found = summary_of(output)
    if as_json:
        print(json.dumps(found.as_json(), ensure_ascii=False))
    else:
        _print_tables(found)
    return 1 if found.failed or found.incomplete else 0


def _print_tables(found: Summary) -> None:
    from rich.table import Table
    from rich.text import Text

    console = out_console()
    missing = f", {found.missing} not analysed yet" if found.missing else ""
    lacking = f", {found.incomplete} incomplete" if found.incomplete else ""
    console.print(
        f"{found.files} calls, {found.failed} failed{lacking}{missing}; {found.turns} turns in "
        f"{clock(found.audio_seconds)} of audio",
        markup=False,
    )
    console.print(
        f"talk {clock(found.talk_seconds)}, silence {clock(found.silence_seconds)}, overlap "
        f"{clock(found.overlap_seconds)}, {found.interruptions} interruptions",
        markup=False,
    )
    if found.other_files:
        text = f"not recordings, left out: {listed_kinds(found.other_files)}"
        console.print(visible_line(text), markup=False)
    if found.labels:
        table = Table(title=Text("Share of talk by label"), title_justify="left")
        for name in ("label", "value", "share"):
            table.add_column(name, justify="right" if name == "share" else "left")
        for name in found.labels:
            for number, (value, share) in enumerate(found.shares(name).items()):
                table.add_row(Text("" if number else name), Text(value), f"{share:.1%}")
            table.add_section()
        console.print(table)
    if found.alerts:
        table = Table(title=Text("Alerts"), title_justify="left")
        for name in ("rule", "calls", "alerts"):
            table.add_column(name, justify="left" if name == "rule" else "right", overflow="fold")
        for name, (calls, total) in found.alerts.items():
            table.add_row(Text(visible_line(name)), str(calls), str(total))
        console.print(table)
    if found.failures:
        table = Table(title=Text("Failures"), title_justify="left")
        for name in ("file", "error", "message"):
            table.add_column(name, overflow="fold")
        for path, kind, message in found.examples:
            table.add_row(*(Text(visible_line(text)) for text in (path, kind, message)))
        console.print(table)
        more = found.failed - len(found.examples)
        if more > 0:
            kinds: dict[str, Any] = dict(found.failures.most_common())
            counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
            console.print(f"and {more} more; in all {counts}", markup=False)
