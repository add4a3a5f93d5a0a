"""`speechmeta erase`: results of a folder run that are older than they may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from speechmeta.visible import visible_json, visible_line

from .console import print_note


def register(app: typer.Typer) -> None:
    app.command("erase")(erase)


def erase(
    output: Annotated[
        Path, typer.Argument(help="The -o folder of a `speechmeta batch` run.", metavar="OUT")
    ],
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than",
            help="Age from which results go, counted from when they were made: 12h, 90d, 8w.",
            metavar="AGE",
            show_default=False,
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Remove nothing, only say what would be removed.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout.")
    ] = False,
) -> int:
    """Remove old results and their journal entries, and say what was removed.

    Recordings are not touched.
    """
    from speechmeta.batch.erasure import erase as erase_results
    from speechmeta.batch.erasure import seconds_of

    found = erase_results(output, seconds_of(older_than), dry_run=dry_run)
    if as_json:
        print(visible_json(json.dumps(found.as_json(), ensure_ascii=False)))
        return 0
    did = "would erase" if dry_run else "erased"
    for call in found.calls:
        more = f" with {len(call.files)} files" if call.files else ""
        print(visible_line(f"{did} {call.path}, {call.state}, analysed {call.analysed_at}{more}"))
    for path in found.leftovers:
        print(visible_line(f"{did} {path}, left by an earlier run"))
    print(f"{did} {len(found.calls)} results; {found.kept} are kept")
    if found.calls:
        print_note("recordings were not touched; --resume analyses those that are still there")
    return 0
