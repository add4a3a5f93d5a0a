"""`speechmeta convert`: a published checkpoint in this project's own layout."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class StoredType(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def register(app: typer.Typer) -> None:
    app.command("convert")(convert)


def convert(
    source: Annotated[str, typer.Argument(help="Folder or hub id, such as skit-ai/speechllm-2B.")],
    target: Annotated[Path, typer.Argument(help="A new folder.")],
    dtype: Annotated[
        StoredType, typer.Option("--dtype", help="Number format of the stored weights.")
    ] = StoredType.FLOAT32,
    local_files_only: Annotated[
        bool, typer.Option("--local-files-only", help="Fetch nothing from the hub.")
    ] = False,
) -> None:
    """Convert a published checkpoint to this project's layout; its logits stay the same."""
    from speechmeta.models.speechllm import convert_checkpoint

    from .console import err_console

    convert_checkpoint(source, target, dtype.value, local_files_only)
    err_console().print(f"written: {target}")
