"""A database that takes results: one transaction a call, which replaces what it held of it.

with Sink("postgresql://analyst@host/calls") as sink:
    sink.write(digest, document)
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from speechmeta.errors import StoreError, UsageError
from speechmeta.store.address import Address, parsed
from speechmeta.store.columns import CALLS, METADATA, PARTS, Row, call_of, parts_of
from speechmeta.writers.files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, output_error, printable

AWAY_SECONDS = 10.0
"""After a failure to connect, so long nothing is tried: whoever waits is told at once."""

CONNECT_SECONDS = 5
STATEMENT_SECONDS = 60
"""For PostgreSQL, so that a server that hangs holds nobody up for ever."""

_CREATING = 0x73706D65
"""The advisory lock under which tables are made: two runs may begin at once."""

_MESSAGE_CHARACTERS = 300


@dataclass(frozen=True)
class StoredCall:
    """A call that a database holds; `analysed` in seconds since 1970."""

    digest: str
    path: str
    analysed: float


class Sink:
    """Writes results to a database, whose tables are made where they are missing; may be used by
    several threads.

    Args:
        url: `duckdb:///file` or `postgresql://user@host/database`.
        there: a file that does not exist is not made.

    Raises:
        UsageError: the URL is not understood, another process has the file, it has to be there
            and is not, or the tables are somebody else's.
        MissingExtraError: libraries are not installed.
        StoreError: the database cannot be reached, or refuses.
    """

    def __init__(self, url: str, *, there: bool = False) -> None:
        self._address = parsed(url)
        file = self._address.file
        if there and file is not None and not os.path.exists(file):
            raise UsageError(f"there is no {printable(file)}", "--sink says where it is")
        self._lock = threading.Lock()
        self._away_until = 0.0
        self._engine = _engine(self._address)
        self._held: sa.Connection | None = None
        try:
            with self._told():
                if self._address.kind == "duckdb":
                    # The file stays ours from here on: DuckDB takes one process at a time.
                    self._held = self._engine.connect()
                self._make_tables()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """The URL without a password."""
        return self._address.shown

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections."""
        if self._held is not None:
            self._held.close()
            self._held = None
        self._engine.dispose()

    def write(self, digest: str, data: dict[str, Any], analysed: float | None = None) -> None:
        """Replaces what there is of a recording by its result, whole or not at all.

        Args:
            digest: of the recording, see `digest.digest_of`.
            data: an `analyze` document.
            analysed: when, in seconds since 1970; now unless given.

        Raises:
            StoreError: the database does not take it; what it held stays.
        """
        row = call_of(digest, data, time.time() if analysed is None else analysed)
        parts = list(parts_of(digest, data))
        with self._lock, self._told():
            self._tried(lambda connection: _replace(connection, row, parts))

    @property
    def is_away(self) -> bool:
        """Whether it did not answer a moment ago, so that nothing is tried."""
        return time.monotonic() < self._away_until

    def try_again(self) -> None:
        """The next call is tried, however short ago the database did not answer."""
        self._away_until = 0.0

    def erase(self, digest: str, before: float) -> bool:
        """Removes a call that was analysed at `before` (seconds since 1970) or earlier; whether
        there was one.

        Raises:
            StoreError: the database refuses.
        """
        old = sa.and_(CALLS.c.digest == digest, CALLS.c.analysed_at <= _moment(before))

        def work(connection: sa.Connection) -> bool:
            found = connection.execute(sa.select(CALLS.c.digest).where(old)).first() is not None
            if found:
                for table in (*PARTS, CALLS):
                    connection.execute(table.delete().where(table.c.digest == digest))
            return found

        with self._lock, self._told():
            return bool(self._tried(work))

    def calls(self, before: float) -> list[StoredCall]:
        """The calls that were analysed at `before` (seconds since 1970) or earlier, by path.

        Raises:
            StoreError: the database refuses.
        """
        columns = (CALLS.c.digest, CALLS.c.path, CALLS.c.analysed_at)
        query = sa.select(*columns).where(CALLS.c.analysed_at <= _moment(before))
        with self._lock, self._told(), self._engine.connect() as connection:
            found = connection.execute(query.order_by(CALLS.c.path)).all()
        return [StoredCall(row[0], row[1] or "", row[2].timestamp()) for row in found]

    def count(self) -> int:
        """How many calls there are.

        Raises:
            StoreError: the database refuses.
        """
        with self._lock, self._told(), self._engine.connect() as connection:
            return int(
                connection.execute(sa.select(sa.func.count()).select_from(CALLS)).scalar_one()
            )

    def compact(self) -> None:
        """Gives up the room of what was erased, so that it is not left in the files.

        Raises:
            StoreError: the database refuses.
        """
        with self._lock, self._told():
            if self._address.kind == "duckdb":
                self._rewrite()
            else:
                with self._engine.connect().execution_options(
                    isolation_level="AUTOCOMMIT"
                ) as connection:
                    for table in (CALLS, *PARTS):
                        connection.execute(sa.text(f"VACUUM {table.name}"))

    def _rewrite(self) -> None:
        """A DuckDB file keeps what was deleted until something else is written there; a copy of
        it holds nothing but what it is to hold."""
        path = Path(str(self._address.file))
        fresh = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
        quoted = str(fresh).replace("'", "''")
        try:
            with self._engine.connect() as connection:
                own = connection.execute(sa.text("SELECT current_database()")).scalar_one()
                name = str(own).replace('"', '""')
                for statement in (
                    "CHECKPOINT",
                    f"ATTACH '{quoted}' AS speechmeta_fresh",
                    f'COPY FROM DATABASE "{name}" TO speechmeta_fresh',
                    "CHECKPOINT speechmeta_fresh",
                    "DETACH speechmeta_fresh",
                ):
                    connection.exec_driver_sql(statement)
                    connection.commit()
            os.chmod(fresh, path.stat().st_mode & 0o777)
            # Before the lock on the old file goes, so that nobody writes to it in between.
            os.replace(fresh, path)
        except OSError as error:
            raise output_error(error, path) from error
        finally:
            with contextlib.suppress(OSError):
                os.unlink(fresh)
        self.close()
        self._held = self._engine.connect()

    def _tried(self, work: Any) -> Any:
        """One transaction, tried again once where the connection was lost meanwhile."""
        if self.is_away:
            raise StoreError(
                f"{self.address} did not answer a moment ago", "see that it runs and is reached"
            )
        try:
            try:
                with self._engine.begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                with self._engine.begin() as connection:
                    return work(connection)
        except sa.exc.OperationalError:
            self._away_until = time.monotonic() + AWAY_SECONDS
            raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise _explained(error, self._address) from None

    def _make_tables(self) -> None:
        with self._engine.connect() as connection:
            if not _missing(connection, self.address):
                return
        with self._engine.begin() as connection:
            if self._address.kind == "postgresql":
                connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_CREATING})"))
            for table, column in _missing(connection, self.address):
                if column is None:
                    table.create(connection)
                else:
                    kind = column.type.compile(connection.dialect)
                    statement = f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}"
                    connection.execute(sa.text(statement))


def _engine(address: Address) -> sa.Engine:
    if address.kind == "duckdb":
        return sa.create_engine(address.url, hide_parameters=True)
    # What the URL itself says counts.
    given = {
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": 1000 * STATEMENT_SECONDS,
        "application_name": "speechmeta",
        "options": f"-c statement_timeout={1000 * STATEMENT_SECONDS}",
    }
    arguments = {name: value for name, value in given.items() if name not in address.url.query}
    return sa.create_engine(
        address.url, hide_parameters=True, pool_pre_ping=True, connect_args=arguments
    )


def _missing(connection: sa.Connection, shown: str) -> list[tuple[sa.Table, sa.Column[Any] | None]]:
    """Tables that are to be made, and columns that are to be added to those of earlier versions.

    Raises:
        UsageError: a table of that name is another's.
    """
    rows = connection.execute(
        sa.text(
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_schema = current_schema()"
        )
    )
    there: dict[str, set[str]] = {}
    for name, column in rows:
        there.setdefault(name, set()).add(column)
    found: list[tuple[sa.Table, sa.Column[Any] | None]] = []
    for table in METADATA.sorted_tables:
        columns = there.get(table.name)
        if columns is None:
            found.append((table, None))
            continue
        if not {column.name for column in table.primary_key} <= columns:
            raise UsageError(
                f"{shown} has a table {table.name} of somebody else's",
                "give a database, or a schema of PostgreSQL, of its own: "
                "?options=-csearch_path%3Dspeech",
            )
        found += [(table, column) for column in table.columns if column.name not in columns]
    return found


def _replace(
    connection: sa.Connection, row: Row, parts: Sequence[tuple[sa.Table, list[Row]]]
) -> None:
    # The call's row first: whoever writes the same call at the same time waits for it.
    statement = insert(CALLS).values(row)
    others = {name: statement.excluded[name] for name in row if name != "digest"}
    connection.execute(
        statement.on_conflict_do_update(index_elements=[CALLS.c.digest], set_=others)
    )
    for table, rows in parts:
        connection.execute(table.delete().where(table.c.digest == row["digest"]))
        if rows:
            _insert(connection, table, rows)


def _insert(connection: sa.Connection, table: sa.Table, rows: list[Row]) -> None:
    """Rows by whole columns: a tenth of the time that row by row takes."""
    if any(isinstance(column.type, sa.JSON) for column in table.columns):
        connection.execute(table.insert(), rows)  # few, and JSON is no type of arrays everywhere
        return
    names = [column.name for column in table.columns]
    made = ", ".join(
        f"unnest(CAST(:{column.name} AS {column.type.compile(connection.dialect)}[]))"
        for column in table.columns
    )
    connection.execute(
        sa.text(f"INSERT INTO {table.name} ({', '.join(names)}) SELECT {made}"),
        {name: [row[name] for row in rows] for name in names},
    )


def _moment(seconds: float) -> datetime:
    # Years that a calendar has.
    return datetime.fromtimestamp(min(max(seconds, 0.0), 2e11), UTC)


def _explained(error: SQLAlchemyError, address: Address) -> StoreError | UsageError:
    """What a driver says, without statement, values and password."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    told = getattr(getattr(cause, "diag", None), "message_primary", None)
    text = next(iter(str(told or cause).strip().splitlines()), type(cause).__name__)
    text = address.hidden(text)[:_MESSAGE_CHARACTERS]
    if "Could not set lock on file" in text:
        process = re.search(r"PID (\d+)", text)
        by = f" (process {process[1]})" if process else ""
        return UsageError(
            f"{address.shown} is open in another process{by}",
            "DuckDB takes one at a time: end that one, choose another file, or use PostgreSQL",
        )
    hint = "see that it runs, is reached, and lets this user in"
    if address.kind == "duckdb":
        hint = "see that the folder is there and may be written, and that the file is DuckDB's"
    elif "permission denied" in text:
        hint = "let this user make tables, or have the owner of the database begin a run"
    return StoreError(f"{address.shown}: {text}", hint)


__all__ = ["Sink", "StoredCall"]
