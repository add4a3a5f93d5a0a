"""A PostgreSQL of its own for tests, from Debian's programs; it wants no root to run it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "pa ss/wo:rd@7"
"""With what has to be escaped in a URL."""

ESCAPED = "pa%20ss%2Fwo%3Ard%407"


@dataclass(frozen=True)
class Cluster:
    """A running server; `url()` names one of its databases."""

    programs: Path
    data: Path
    port: int
    prefix: tuple[str, ...]

    def url(self, database: str = "postgres", password: str = ESCAPED) -> str:
        return f"postgresql://speech:{password}@127.0.0.1:{self.port}/{database}"

    def ctl(self, *arguments: str) -> None:
        """`pg_ctl`, waiting for it."""
        log = str(self.data / "log")
        command = [str(self.programs / "pg_ctl"), "-D", str(self.data), "-w", "-s", "-l", log]
        subprocess.run([*self.prefix, *command, *arguments], check=True, cwd="/")

    def make_place(self, name: str) -> str:
        """An empty schema, which takes less time than a database; the URL of it."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE SCHEMA "{name}"'.encode())
        return f"{self.url()}?options=-csearch_path%3D{name}"


def programs() -> Path | None:
    """Where the newest PostgreSQL's programs lie."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3])
    )
    if found:
        return found[-1].parent
    named = shutil.which("initdb")
    return Path(named).resolve().parent if named else None


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A server in a folder of its own, stopped and deleted at the end."""
    pytest.importorskip("psycopg", reason="the extra `store` is not installed")
    found = programs()
    if found is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    prefix: tuple[str, ...] = ()
    # Not pytest's own folder, which only its owner may enter; and short, for the socket's name.
    place = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        if os.geteuid() == 0:
            if shutil.which("runuser") is None:
                pytest.skip("PostgreSQL does not run as root, and there is no runuser")
            prefix = ("runuser", "-u", "nobody", "--")
            shutil.chown(place, "nobody")
        data = place / "data"
        secret = place / "password"
        secret.write_text(PASSWORD + "\n")
        secret.chmod(0o644)
        subprocess.run(
            [*prefix, str(found / "initdb"), "-D", str(data), "-U", "speech", "-A", "scram-sha-256",
             "--pwfile", str(secret), "-E", "UTF8", "--locale", "C", "--no-sync"],
            check=True, cwd="/", stdout=subprocess.DEVNULL,
        )  # fmt: skip
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        running = Cluster(found, data, port, prefix)
        settings = {"port": port, "unix_socket_directories": place, "fsync": "off",
                    "listen_addresses": "127.0.0.1"}  # fmt: skip
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        running.ctl("start")
        try:
            yield running
        finally:
            running.ctl("stop", "-m", "immediate")
    finally:
        shutil.rmtree(place, ignore_errors=True)
