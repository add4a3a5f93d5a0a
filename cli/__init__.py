"""The command `speechmeta`. Importing it is cheap; the commands import what they need."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; see `speechmeta.cli.app.main`."""
    try:
        from .app import main as run
    except KeyboardInterrupt:
        # Even the few modules that every command needs take a moment to import.
        print("speechmeta: interrupted", file=sys.stderr, flush=True)
        return 130
    return run(arguments)


__all__ = ["main"]
