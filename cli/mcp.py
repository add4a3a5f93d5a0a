"""`speechmeta mcp`: results and recordings for assistants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechmeta.errors import UsageError, require_extra

from .flags import CALL, MODEL, add_command

if TYPE_CHECKING:
    from speechmeta.pipeline.analyzer import Analyzer
    from speechmeta.pipeline.options import CallOptions, ModelOptions


def register(app: typer.Typer) -> None:
    add_command(app, "mcp", mcp, {"call": CALL, "model": MODEL})


def mcp(
    results: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of results, such as that of speechmeta batch.",
            metavar="RESULTS",
            show_default=False,
        ),
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder whose recordings may be analysed; may be repeated.", show_default=False
        ),
    ] = None,
    *,
    call: CallOptions,
    model: ModelOptions,
) -> int:
    """Give assistants read-only tools over calls, by the Model Context Protocol on stdin.

    search_turns and call_measures read RESULTS, analyze_call the recordings below --root.
    """
    require_extra("mcp", "mcp", "the server for assistants")
    from speechmeta.server.mcp_tools import tools
    from speechmeta.server.result_folder import ResultFolder

    roots = root or []
    if results is None and not roots:
        raise UsageError("there is nothing to read", "speechmeta mcp RESULTS --root CALLS")
    for folder in roots:
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder", "give --root a folder of recordings")

    def analyzer() -> Analyzer:
        from speechmeta.pipeline.analyzer import Analyzer

        return Analyzer(**dict(model))

    found = None if results is None else ResultFolder(results)
    tools(found, roots, analyzer, call).run("stdio")
    return 0
