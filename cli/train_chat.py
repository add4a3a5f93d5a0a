"""`speechmeta train construct` and `speechmeta train qformer`: data and training for chat."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from speechmeta.errors import UsageError, require_extra

from . import options
from .console import print_note, progress

WRITER_PANEL = "Language model"


class DefaultGroup(TyperGroup):
    """A group whose first command may be left out: `train config.yaml` is `train run ...`."""

    default = "run"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def register(group: typer.Typer) -> None:
    group.command("construct")(construct)
    group.command("qformer")(qformer)


def construct(
    records: Annotated[
        list[Path],
        typer.Argument(
            help="Metadata: manifests, lines of SpeakerMeta with audio, or the JSON of "
            "speechmeta analyze.",
            metavar="RECORDS...",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The training manifest; a rerun continues it.")
    ],
    writer: Annotated[
        str,
        typer.Option(
            help="The language model that writes responses: a folder or hub id, or with "
            "--base-url the server's name for it.",
            rich_help_panel=WRITER_PANEL,
        ),
    ],
    base_url: Annotated[
        str | None,
        typer.Option(
            help="An OpenAI-compatible server, such as http://127.0.0.1:8000/v1; its key is "
            "read from OPENAI_API_KEY.",
            show_default=False,
            rich_help_panel=WRITER_PANEL,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Seed prompts, one per line. Default: a list in the package.",
            show_default=False,
        ),
    ] = None,
    per_record: Annotated[int, typer.Option(min=1, help="Prompts for each record.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed for choosing prompts and for sampling.")] = 0,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest response in tokens.", rich_help_panel=WRITER_PANEL)
    ] = 512,
    temperature: Annotated[
        float,
        typer.Option(
            min=0.0, help="0 always takes the most likely token.", rich_help_panel=WRITER_PANEL
        ),
    ] = 0.0,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Responses generated together.", rich_help_panel=WRITER_PANEL)
    ] = 8,
    device: options.Device = "auto",
    local_files_only: options.LocalFilesOnly = False,
    quiet: options.Quiet = False,
) -> int:
    """Make a training manifest for chat out of metadata, with a language model's help."""
    from speechmeta.training.datagen import construct as run
    from speechmeta.training.datagen import plan, read_prompts
    from speechmeta.training.descriptions import read_records
    from speechmeta.training.text_models import OpenAIText, TextModel, TransformersText

    described = itertools.chain.from_iterable(read_records(path) for path in records)
    tasks = list(plan(described, read_prompts(prompts), per_record, seed))
    if not tasks:
        raise UsageError("there are no records", "check the files")
    model: TextModel
    if base_url is not None:
        model = OpenAIText(
            base_url, writer, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
        )
    else:
        model = TransformersText(
            writer,
            device,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            local_files_only=local_files_only,
        )
    missing = sorted({t.speech.audio for t in tasks if not Path(t.speech.audio).is_file()})
    if missing and not quiet:
        print_note(f"{len(missing)} recordings are not there, such as {missing[0]}")
    with progress(len(tasks), quiet) as advance:
        before = 0

        def done(count: int) -> None:
            nonlocal before
            advance("responses", count - before)
            before = count

        report = run(tasks, model, output, batch_size=batch_size, on_progress=done)
    if not quiet:
        print_note(
            f"{output}: {report.written} lines written, {report.kept} kept, {report.failed} failed"
        )
    return 1 if report.failed else 0


def qformer(
    manifest: Annotated[
        Path,
        typer.Argument(help="Manifest written by speechmeta train construct.", metavar="MANIFEST"),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")],
    model: Annotated[
        str, typer.Option(help="DeSTA checkpoint to start from: a folder or a hub id.")
    ],
    epochs: Annotated[float, typer.Option(min=0.0, help="Passes over the manifest.")] = 1.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples per batch.")] = 4,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches per optimizer step.")] = 1,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Highest learning rate.")] = 1e-4,
    warmup_steps: Annotated[
        int, typer.Option(min=0, help="Steps until the highest learning rate.")
    ] = 0,
    max_steps: Annotated[
        int, typer.Option(min=0, help="Stop after this many steps; 0 for no limit.")
    ] = 0,
    save_steps: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed for everything that is random.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start from a random Q-Former.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest checkpoint of the run.")
    ] = False,
    device: options.Device = "auto",
    compute_type: options.ComputeTypeOption = options.ComputeType.AUTO,
    quantization: Annotated[
        str | None,
        typer.Option(
            help="Quantization of the frozen language model; see speechmeta chat.",
            show_default=False,
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Use less memory and take longer.")
    ] = False,
    local_files_only: options.LocalFilesOnly = False,
    quiet: options.Quiet = False,
) -> int:
    """Train the Q-Former of a DeSTA checkpoint; Whisper and the language model stay frozen."""
    require_extra("accelerate", "train", "training")
    from speechmeta.training.qformer import QFormerOptions, train_qformer

    loading = options.chat_loading(compute_type, quantization)

    def show(figures: dict[str, float]) -> None:
        if not quiet:
            print_note(", ".join(f"{name} {value}" for name, value in figures.items()))

    final = train_qformer(
        QFormerOptions(
            model=model,
            manifest=manifest,
            output=output,
            epochs=epochs,
            batch_size=batch_size,
            accumulate=accumulate,
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            max_steps=max_steps,
            save_steps=save_steps,
            seed=seed,
            fresh=fresh,
            device=device,
            dtype=loading["dtype"],
            quantization=loading["quantization"],
            gradient_checkpointing=gradient_checkpointing,
            local_files_only=local_files_only,
        ),
        resume=resume,
        on_log=show,
    )
    print_note(f"trained checkpoint: {final}")
    return 0
