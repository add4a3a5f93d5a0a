"""`speechmeta erase`: results of a folder run that are older than they may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechmeta.errors import UsageError
from speechmeta.visible import visible_json, visible_line

from .console import print_note
from .flags import STORE, add_command

if TYPE_CHECKING:
    from speechmeta.store.options import StoreOptions


def register(app: typer.Typer) -> None:
    add_command(app, "erase", erase, {"store": STORE})


def erase(
    output: Annotated[
        Path | None,
        typer.Argument(
            help="The -o folder of a `speechmeta batch` run; without one, results go from the "
            "database of --sink alone.",
            metavar="OUT",
            show_default=False,
        ),
    ] = None,
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than",
            help="Age from which results go, counted from when they were made: 12h, 90d, 8w.",
            metavar="AGE",
            show_default=False,
        ),
    ] = "",
    keep_stored: Annotated[
        bool,
        typer.Option(
            "--keep-stored", help="Leave the results that the run wrote to a database there."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Remove nothing, only say what would be removed.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout.")
    ] = False,
    *,
    store: StoreOptions,
) -> int:
    """Remove old results and their journal entries, and say what was removed.

    Results go from the database that the run wrote to as well. Recordings are not touched.
    """
    from speechmeta.batch.erasure import erase as erase_results
    from speechmeta.batch.erasure import erase_stored, seconds_of

    if not older_than:
        raise UsageError("no age was given", "add --older-than, such as 90d")
    if output is not None:
        found = erase_results(
            output, seconds_of(older_than), dry_run=dry_run,
            sink=None if keep_stored else store.sink, keep_stored=keep_stored,
        )  # fmt: skip
    elif store.sink is None or keep_stored:
        raise UsageError("no results were named", "give the -o folder of a run, or --sink URL")
    else:
        found = erase_stored(store.sink, seconds_of(older_than), dry_run=dry_run)
    if as_json:
        print(visible_json(json.dumps(found.as_json(), ensure_ascii=False)))
        return 0
    did = "would erase" if dry_run else "erased"
    for call in found.calls:
        more = f" with {len(call.files)} files" if call.files else ""
        more += f", also from {call.stored}" if call.stored else ""
        print(visible_line(f"{did} {call.path}, {call.state}, analysed {call.analysed_at}{more}"))
    for path in found.leftovers:
        print(visible_line(f"{did} {path}, left by an earlier run"))
    print(f"{did} {len(found.calls)} results; {found.kept} are kept")
    if found.calls:
        print_note("recordings were not touched; --resume analyses those that are still there")
    return 0
