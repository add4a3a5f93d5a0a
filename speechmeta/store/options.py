"""Where results are kept beside their files, stated once for all commands."""

from __future__ import annotations

from speechmeta.settings import Options, option

PANEL = "Output"


class StoreOptions(Options):
    """The database that results go to.

    Raises:
        UsageError: the option is not known or cannot take its value.
    """

    sink: str | None = option(
        None,
        "Also write results to this database: duckdb:///calls.duckdb or "
        "postgresql://user@host/database. A password is better in SPEECHMETA_SINK, a config file "
        "or ~/.pgpass than in a command.",
        unset="none",
        metavar="URL",
        panel=PANEL,
    )


__all__ = ["StoreOptions"]
