"""`speechmeta train`: a checkpoint from manifests and one config file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import train_chat


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        cls=train_chat.DefaultGroup,
        help="Train checkpoints: CONFIG trains SpeechLLM, construct and qformer are for chat.",
    )
    group.command("run")(train)
    train_chat.register(group)
    app.add_typer(group, name="train")


def train(
    configs: Annotated[
        list[Path],
        typer.Argument(
            help="YAML or TOML files, see docs/training.md; several runs follow one another.",
            metavar="CONFIG...",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run, over the config's.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the newest checkpoint of the run; of several, from where they ended.",
        ),
    ] = False,
    commercial_only: Annotated[
        bool,
        typer.Option("--commercial-only", help="Leave out sources that forbid commercial use."),
    ] = False,
) -> None:
    """Train a SpeechLLM checkpoint on JSONL manifests."""
    import logging

    from speechmeta.errors import UsageError
    from speechmeta.training.config import read_config

    from .console import err_console

    if output is not None and len(configs) > 1:
        raise UsageError("--output names one folder for several runs", "set output in the configs")
    runs = [read_config(config) for config in configs]
    for run in runs:
        if output is not None:
            run.output = output
        run.data.commercial_only |= commercial_only
        if not resume and any(run.output.glob("checkpoint-*")):
            raise UsageError(
                f"{run.output} holds checkpoints of an earlier run",
                "go on with --resume, or name another folder with --output",
            )
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from speechmeta.training.trainer import train as train_one
    from speechmeta.training.trainer import train_in_turn

    finals = [train_one(runs[0], resume)] if len(runs) == 1 else train_in_turn(runs, resume)
    for final in finals:
        err_console().print(f"trained checkpoint: {final}")
