"""`speechmeta train`: a checkpoint fine-tuned on manifests, by one config file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from . import train_chat


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        cls=train_chat.DefaultGroup,
        help="Fine-tune checkpoints: CONFIG is for analysis, construct and qformer for chat.",
    )
    group.command("run")(train)
    train_chat.register(group)
    app.add_typer(group, name="train")


def train(
    config: Annotated[
        Path, typer.Argument(help="YAML or TOML file, see docs/training.md.", metavar="CONFIG")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the run; overrides the config's."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest checkpoint of the run.")
    ] = False,
    commercial_only: Annotated[
        bool,
        typer.Option("--commercial-only", help="Leave out sources that forbid commercial use."),
    ] = False,
) -> None:
    """Fine-tune a checkpoint on JSONL manifests.

    A SpeechLLM checkpoint learns by LoRA; `family: whisper_meta` in the config tunes Whisper's
    ears and words as recipes/whisper_meta does for the bundled checkpoint,
    `whisper_meta_heads` fits label heads on them, `speakers` makes what tells voices apart,
    and `overlap` what hears two at once.
    """
    import logging

    from speechmeta.errors import UsageError, require_extra
    from speechmeta.training.finetune.config import read_config

    from .console import err_console

    for module in ("accelerate", "peft"):
        require_extra(module, "train", "training")
    # The run's own notes; those of libraries stay warnings.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("speechmeta").setLevel(logging.INFO)
    from speechmeta.training.whisper_meta.recipe import is_recipe, read_recipe, run_recipe

    if is_recipe(config):
        # Its rows are always those that are free for commercial use.
        recipe = read_recipe(config)
        recipe.output = output or recipe.output
        err_console().print(f"trained checkpoint: {run_recipe(recipe, resume)}")
        return
    from speechmeta.training.whisper_meta.heads_recipe import (
        is_heads_recipe,
        read_heads_recipe,
        run_heads,
    )

    if is_heads_recipe(config):
        heads = read_heads_recipe(config)
        heads = replace(heads, checkpoint=output or heads.checkpoint)
        err_console().print(f"heads of: {run_heads(heads)}")
        return
    from speechmeta.training.voices import (
        is_voices_recipe,
        read_voices_recipe,
        run_voices,
    )

    if is_voices_recipe(config):
        voices = read_voices_recipe(config)
        voices = replace(voices, output=output or voices.output)
        err_console().print(f"voice encoder: {run_voices(voices)}")
        return
    from speechmeta.training.mixtures import is_overlap_recipe, read_overlap_recipe, run_overlap

    if is_overlap_recipe(config):
        overlap = read_overlap_recipe(config)
        overlap = replace(overlap, output=output or overlap.output)
        err_console().print(f"overlap detector: {run_overlap(overlap)}")
        return
    run = read_config(config)
    if output is not None:
        run.output = output
    run.data.commercial_only |= commercial_only
    if not resume and any(run.output.glob("checkpoint-*")):
        raise UsageError(
            f"{run.output} holds checkpoints of an earlier run",
            "go on with --resume, or name another folder with --output",
        )
    from speechmeta.training.finetune.trainer import train as run_training

    final = run_training(run, resume)
    err_console().print(f"trained checkpoint: {final}")
