"""`speechmeta models`: which checkpoints can be named, and which are on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer


@dataclass(frozen=True)
class KnownModel:
    """One checkpoint that can be named.

    Attributes:
        name: what `--model` takes; the first is what it is without one.
        does: one line.
        used_by: the commands that take it.
        location: the folder where it lies, or None if it would have to be downloaded.
    """

    name: str
    does: str
    used_by: str
    location: str | None = None


PUBLISHED = (
    KnownModel(
        "openai/whisper-large-v3-turbo",
        "speech and words, 99 languages; 0.8 billion weights; any Whisper checkpoint will do",
        "analyze",
    ),
    KnownModel(
        "distil-whisper/distil-large-v3.5",
        "speech and words, English; 0.8 billion weights, 2 decoder layers",
        "analyze",
    ),
    KnownModel(
        "openai/whisper-small.en",
        "speech and words, English; 0.2 billion weights",
        "analyze",
    ),
    KnownModel(
        "skit-ai/speechllm-2B",
        "six fields; HuBERT X-Large and TinyLlama 1.1B, English",
        "analyze",
    ),
    KnownModel(
        "skit-ai/speechllm-1.5B",
        "six fields; WavLM Large and TinyLlama 1.1B, English",
        "analyze",
    ),
    KnownModel(
        "DeSTA-ntu/DeSTA2-8B-beta",
        "questions about the audio; Whisper Small and Llama 3 8B (gated)",
        "chat",
    ),
    KnownModel(
        "DeSTA-ntu/DeSTA2.5-Audio-Llama-3.1-8B",
        "questions about the audio; Whisper Large v3 and Llama 3.1 8B (gated)",
        "chat",
    ),
)


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Checkpoints that can be named, and which are on this machine.")
    group.callback(invoke_without_command=True)(models)
    group.command("download")(download)
    group.command("rm")(remove)
    app.add_typer(group, name="models")


def models(
    context: typer.Context,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout.")
    ] = False,
) -> None:
    """List the checkpoints that can be named and those on this machine."""
    if context.invoked_subcommand is not None:
        return
    known = list_models()
    if as_json:
        print(json.dumps([asdict(model) for model in known], indent=2))
        return
    from rich.table import Table
    from rich.text import Text

    from .console import out_console

    console = out_console()
    for number, model in enumerate(known):
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(width=9)
        # Folders are copied from here: they may be folded, never cut.
        grid.add_column(overflow="fold")
        place = model.location or f"no; speechmeta models download {model.name}"
        for name, text in (("", model.does), ("command", model.used_by), ("here", place)):
            grid.add_row(Text(name, style="dim"), Text(text))
        console.print(Text(model.name, style="bold"))
        console.print(grid)
        if number + 1 < len(known):
            console.print()


def download(
    name: Annotated[str, typer.Argument(help="A hub id, such as openai/whisper-small.en.")],
) -> None:
    """Fetch a checkpoint and all that it needs, so that it runs without a network later."""
    from speechmeta.models.download import download as fetch

    from .console import print_note

    print_note(f"fetching {name}")
    print(fetch(name))


def remove(
    name: Annotated[str, typer.Argument(help="The hub id of a checkpoint that was fetched.")],
) -> None:
    """Remove a checkpoint from the hub's cache on this machine."""
    from speechmeta.models.download import remove as discard

    from .console import print_note

    gone = discard(name)
    print_note(f"removed {name}, {gone.size / 1e6:,.0f} MB in {gone.folder}")


def list_models() -> list[KnownModel]:
    """The bundled checkpoint and the published ones, with where they lie."""
    from speechmeta.models.loading import BUNDLED, BUNDLED_NAME

    bundled = KnownModel(
        BUNDLED_NAME,
        "six fields, English; Whisper base with label heads, in the package, runs offline",
        "analyze",
        str(BUNDLED) if (BUNDLED / "config.json").is_file() else None,
    )
    located = [
        KnownModel(model.name, model.does, model.used_by, _in_hub_cache(model.name))
        for model in PUBLISHED
    ]
    named = {model.name for model in PUBLISHED}
    from speechmeta.models.download import kept_models

    others = [
        KnownModel(kept.name, "fetched to this machine", "", _in_hub_cache(kept.name))
        for kept in kept_models()
        if kept.name not in named
    ]
    return [bundled, *located, *(model for model in others if model.location)]


def _in_hub_cache(repository: str) -> str | None:
    """The snapshot's folder in the local hub cache, if its config is there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json")
    return str(Path(found).parent) if isinstance(found, str) else None
