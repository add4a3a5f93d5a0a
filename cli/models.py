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
    app.command("models")(models)


def models(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout.")
    ] = False,
) -> None:
    """List the checkpoints that can be named and those on this machine."""
    known = list_models()
    if as_json:
        print(json.dumps([asdict(model) for model in known], indent=2))
        return
    from rich.table import Table

    from .console import out_console

    table = Table("--model", "what it does", "command", "on this machine")
    for model in known:
        table.add_row(
            model.name,
            model.does,
            model.used_by,
            model.location or "no",
        )
    out_console().print(table)


def list_models() -> list[KnownModel]:
    """The bundled checkpoint and the published ones, with where they lie."""
    from speechmeta.models.loading import BUNDLED, BUNDLED_NAME

    bundled = KnownModel(
        BUNDLED_NAME,
        "six fields, English; runs offline",
        "analyze",
        str(BUNDLED) if (BUNDLED / "config.json").is_file() else None,
    )
    located = [
        KnownModel(model.name, model.does, model.used_by, _in_hub_cache(model.name))
        for model in PUBLISHED
    ]
    return [bundled, *located]


def _in_hub_cache(repository: str) -> str | None:
    """The snapshot's folder in the local hub cache, if its config is there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json")
    return str(Path(found).parent) if isinstance(found, str) else None
