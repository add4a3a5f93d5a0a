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
    config: Annotated[Path, typer.Argument(help="YAML or TOML file; see docs/training.md.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run, over the config's.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run.")
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

    settings = read_config(config)
    if output is not None:
        settings.output = output
    if commercial_only:
        settings.data.commercial_only = True
    if not resume and any(settings.output.glob("checkpoint-*")):
        raise UsageError(
            f"{settings.output} holds checkpoints of an earlier run",
            "go on with --resume, or name another folder with --output",
        )
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from speechmeta.training.trainer import train as run

    final = run(settings, resume=resume)
    err_console().print(f"trained checkpoint: {final}")
