"""Addresses of databases: which are understood, and how they are written without a password."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, quote_plus

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from speechmeta.errors import UsageError, require_extra
from speechmeta.writers.files import printable

EXAMPLES = "write duckdb:///calls.duckdb or postgresql://user@host/database"

HIDDEN = "***"

Kind = Literal["duckdb", "postgresql"]

_DRIVERS: dict[str, tuple[Kind, str, tuple[str, ...]]] = {
    "duckdb": ("duckdb", "duckdb", ("duckdb", "duckdb_engine")),
    "postgresql": ("postgresql", "postgresql+psycopg", ("psycopg",)),
    "postgresql+psycopg": ("postgresql", "postgresql+psycopg", ("psycopg",)),
}


@dataclass(frozen=True, repr=False)
class Address:
    """A database.

    Attributes:
        url: with its password; nothing of it may be shown.
        shown: the same without passwords.
        file: of a DuckDB database, absolute.
        secrets: what has to stay out of messages.
    """

    kind: Kind
    url: URL
    shown: str
    file: str | None
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Address({self.shown})"

    @property
    def is_whole(self) -> bool:
        """Whether `shown` says all that it takes to connect."""
        return not self.secrets

    def hidden(self, text: str) -> str:
        """A message without the password, which drivers may quote."""
        for secret in self.secrets:
            for form in {secret, quote(secret, safe=""), quote_plus(secret)}:
                text = text.replace(form, HIDDEN)
        return text


def parsed(text: str) -> Address:
    """The database that a URL names.

    Raises:
        UsageError: it is none that is understood; the message does not repeat what may be a
            password. MissingExtraError: its libraries are not installed.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise UsageError("the sink is no URL of a database", EXAMPLES) from None
    if url.drivername not in _DRIVERS:
        name = printable(url.drivername)[:40]
        raise UsageError(f"results cannot be written to {name!r}", EXAMPLES)
    kind, driver, modules = _DRIVERS[url.drivername]
    for module in modules:
        require_extra(module, "store", "this sink")
    url = url.set(drivername=driver)
    if kind == "duckdb":
        return _duckdb(url)
    if not url.database:
        raise UsageError("the sink names no database", EXAMPLES)
    secrets = [url.password, *_of_query(url)]
    hidden = {
        name: HIDDEN if name.lower() in _SECRET else value for name, value in url.query.items()
    }
    shown = url.set(query=hidden, drivername="postgresql").render_as_string(hide_password=True)
    kept = tuple(str(secret) for secret in secrets if secret)
    return Address(kind, url, shown.replace(quote(HIDDEN), HIDDEN), None, kept)


_SECRET = ("password", "sslpassword", "oauth_client_secret")


def _of_query(url: URL) -> list[str]:
    found: list[str] = []
    for name in url.query:
        if name.lower() in _SECRET:
            value = url.query[name]
            found += [value] if isinstance(value, str) else list(value)
    return found


def _duckdb(url: URL) -> Address:
    name = url.database or ""
    if url.host or url.username or url.password or url.query:
        raise UsageError(
            "a DuckDB sink is a file and nothing more",
            "three slashes and its path: duckdb:///calls.duckdb, duckdb:////data/calls.duckdb",
        )
    if name in ("", ":memory:") or name.startswith(("md:", "motherduck:", ":memory:")):
        raise UsageError("a DuckDB sink has to be a file", EXAMPLES)
    path = os.path.abspath(name)
    if os.path.isdir(path):
        raise UsageError(f"{printable(path)} is a folder", "name a file in it, which is made")
    url = url.set(database=path)
    return Address("duckdb", url, f"duckdb:///{printable(path)}", path, ())


__all__ = ["Address", "parsed"]
