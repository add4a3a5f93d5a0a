"""`speechmeta eval`: a system measured on a data set, and reports compared."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from speechmeta.errors import UsageError
from speechmeta.eval.readers.catalogue import READERS

from . import eval_instruction, options
from .console import out_console, print_note, progress
from .flags import EVAL, MODEL, add_command

if TYPE_CHECKING:
    from speechmeta.eval.options import EvalOptions
    from speechmeta.eval.types import AnyPredictor, Record
    from speechmeta.pipeline.options import ModelOptions

DATA_PANEL = "Data"
SYSTEM_PANEL = "Other systems"


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True,
        help="Measure a system on a data set in its official layout, or compare reports.",
    )
    for name, entry in READERS.items():
        add_command(group, name, _command(name), {"measured": EVAL, "model": MODEL}, entry.text)
    group.command("compare")(compare)
    group.command("instruction")(eval_instruction.instruction)
    app.add_typer(group, name="eval")


def _command(name: str) -> Callable[..., None]:
    def evaluate_dataset(
        data: Annotated[
            Path,
            typer.Option(
                help="The data set's folder; for manifest the .jsonl file.",
                rich_help_panel=DATA_PANEL,
            ),
        ],
        split: Annotated[
            str | None,
            typer.Option(help="The split.", show_default=False, rich_help_panel=DATA_PANEL),
        ] = None,
        output: Annotated[
            Path | None,
            typer.Option(
                "--output",
                "--output-dir",
                "-o",
                help="Folder for report.json, report.md, report.html and records.jsonl, or a "
                ".json file; the others are then written next to it.",
                show_default=False,
                rich_help_panel=options.OUTPUT_PANEL,
            ),
        ] = None,
        resume: Annotated[
            bool,
            typer.Option(
                "--resume",
                help="Continue the interrupted run in -o; failed clips are tried again.",
                rich_help_panel=options.OUTPUT_PANEL,
            ),
        ] = False,
        as_json: Annotated[
            bool,
            typer.Option(
                "--json",
                help="Print the report as JSON, and nothing else, on stdout.",
                rich_help_panel=options.OUTPUT_PANEL,
            ),
        ] = False,
        quiet: options.Quiet = False,
        asr: Annotated[
            str | None,
            typer.Option(
                help="Measure this transformers speech recognition model instead.",
                show_default=False,
                rich_help_panel=SYSTEM_PANEL,
            ),
        ] = None,
        classifier: Annotated[
            list[str] | None,
            typer.Option(
                help="FIELD=MODEL: a transformers audio classifier for a label. May be repeated, "
                "and goes with --asr.",
                show_default=False,
                rich_help_panel=SYSTEM_PANEL,
            ),
        ] = None,
        faster_whisper: Annotated[
            str | None,
            typer.Option(
                help="Measure faster-whisper with this model instead: a folder in CTranslate2's "
                "layout, or a name such as base.",
                show_default=False,
                rich_help_panel=SYSTEM_PANEL,
            ),
        ] = None,
        predictions: Annotated[
            Path | None,
            typer.Option(
                help="Measure these predictions of another system: JSON lines with id or audio, "
                "and pred_text, gender, ...",
                show_default=False,
                rich_help_panel=SYSTEM_PANEL,
            ),
        ] = None,
        *,
        measured: EvalOptions,
        model: ModelOptions,
    ) -> None:
        from speechmeta.eval import evaluate, read_dataset

        chosen = {key: getattr(measured, key) for key in ("classes", "limit", "sample")}
        dataset = read_dataset(name, data, split, **chosen)
        predictor = _other_system(asr, classifier or [], faster_whisper, predictions, model)
        with progress(len(dataset.clips), quiet) as advance:
            shown = 0

            def show(done: int, total: int, record: Record) -> None:
                nonlocal shown
                # After --resume the first call stands for all that was done before.
                advance(record.id, done - shown)
                shown = done
                if record.error is not None and not quiet:
                    print_note(f"{record.id}: {record.error}")

            report = evaluate(
                dataset,
                # The data set was read with them.
                options=measured.updated(dict.fromkeys(chosen)),
                predictor=predictor,
                output=output,
                resume=resume,
                progress=show,
                command=shlex.join(["speechmeta", *sys.argv[1:]]),
                **dict(model),
            )
        _show(report, as_json)
        if output is not None and not quiet:
            print_note(f"written to {output}")
        if report["errors"]:
            raise typer.Exit(1)

    return evaluate_dataset


def compare(
    reports: Annotated[
        list[Path],
        typer.Argument(help="Reports' JSON files, two or more, on the same clips.", metavar="JSON"),
    ],
    names: Annotated[
        str | None,
        typer.Option(
            help="What to call the systems, in the order of the reports.",
            metavar="NAME,...",
            show_default=False,
        ),
    ] = None,
    resample: Annotated[
        Literal["speakers", "clips"],
        typer.Option(help="What intervals and p values draw anew."),
    ] = "speakers",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for comparison.json, comparison.md and comparison.html, or a .json file; "
            "the others are then written next to it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Systems side by side, with paired differences, intervals and p values."""
    from speechmeta.eval.reports.compare import compare_reports
    from speechmeta.eval.reports.compare_tables import comparison_facts, comparison_tables
    from speechmeta.eval.reports.output import load_report, report_json, write_comparison

    comparison = compare_reports(
        [load_report(path) for path in reports],
        [name.strip() for name in names.split(",")] if names is not None else None,
        resample=resample,
    )
    if output is not None:
        write_comparison(comparison, output)
    if as_json:
        print(report_json(comparison), end="")
        return
    console = out_console()
    for key, value in comparison_facts(comparison):
        console.print(f"{key}: {value}", markup=False)
    _print_tables(console, comparison_tables(comparison))
    for note in comparison["notes"]:
        console.print(note, markup=False, style="dim")


def _other_system(
    asr: str | None,
    classifiers: list[str],
    faster_whisper: str | None,
    predictions: Path | None,
    model: ModelOptions,
) -> AnyPredictor | None:
    wanted = [
        name
        for name, given in (
            ("--model", model.model),
            ("--predictions", predictions),
            ("--faster-whisper", faster_whisper),
            ("--asr or --classifier", asr or classifiers),
        )
        if given
    ]
    if len(wanted) > 1:
        raise UsageError(f"{' and '.join(wanted)} name different systems", "give one of them")
    if predictions is not None:
        from speechmeta.eval.systems import FilePredictor

        return FilePredictor(predictions)
    if faster_whisper is not None:
        from speechmeta.eval.faster_whisper import FasterWhisperPredictor

        return FasterWhisperPredictor(
            faster_whisper,
            model.language,
            model.device,
            model.dtype,
            local_files_only=model.local_files_only,
        )
    if asr is None and not classifiers:
        return None
    from speechmeta.eval.systems import PipelinePredictor

    by_field: dict[str, str] = {}
    for item in classifiers:
        field, separator, name = item.partition("=")
        if not (separator and field and name):
            raise UsageError(f"--classifier {item!r} is not FIELD=MODEL", "such as Emotion=MODEL")
        by_field[field] = name
    return PipelinePredictor(asr, by_field, model.device)


def _show(report: Mapping[str, Any], as_json: bool) -> None:
    from speechmeta.eval.reports.output import report_json
    from speechmeta.eval.reports.tables import detail_tables, facts, published, summary_tables

    if as_json:
        print(report_json(report), end="")
        return
    console = out_console()
    for name, value in facts(report):
        console.print(f"{name}: {value}", markup=False)
    _print_tables(console, [*summary_tables(report), *detail_tables(report), *published(report)])


def _print_tables(console: Any, tables: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    for table in tables:
        shown = Table(title=Text(table.title), title_justify="left")
        for i, head in enumerate(table.header):
            shown.add_column(Text(head), justify="right" if i else "left")
        for row in table.rows:
            shown.add_row(*(Text(cell) for cell in row))
        console.print()
        console.print(shown)
        if table.note:
            console.print(Text(table.note, style="dim"))
