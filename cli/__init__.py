"""The command `speechmeta`. Importing it is cheap; the commands import what they need."""

from .app import main

__all__ = ["main"]
