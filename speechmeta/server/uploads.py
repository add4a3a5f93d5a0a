"""Recordings that clients send or name: on the disk under a private name, gone when done with."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request

from speechmeta.errors import UsageError
from speechmeta.server.json_objects import json_object
from speechmeta.server.problems import Refused
from speechmeta.writers.files import output_error, printable

MAX_FIELDS = 100
MAX_FIELD_BYTES = 64 * 1024
MAX_JSON_BYTES = 1 << 20
_NAME_CHARACTERS = 120


@dataclass
class Incoming:
    """A request that was read.

    Attributes:
        path: of the recording. name: how the client calls it.
        given: the other fields; of a list (`name[]`) all values.
        kept: the file was sent, is ours, and lies in a folder of its own.
    """

    path: Path
    name: str
    kept: bool
    given: dict[str, Any] = field(default_factory=dict)

    def forget(self) -> None:
        """Deletes what was sent."""
        if self.kept:
            shutil.rmtree(self.path.parent, ignore_errors=True)


@asynccontextmanager
async def received(request: Request, place: Path, roots: Sequence[Path]) -> AsyncIterator[Incoming]:
    """Reads a form with a `file` or a `path`, or a JSON object with a `path`.

    The recording is forgotten at the end of the block, unless `kept` was set to False.

    Raises:
        UsageError: there is no recording, or there are two.
        Refused: the body is neither form nor JSON, or the path is not below a root.
        OutputError: there is no room on the disk.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        incoming = _named(await _json(request), roots)
    elif kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        incoming = await _form(request, place, roots)
    else:
        raise Refused(
            415,
            f"the request's content type is {printable(kind)[:80] or 'missing'}",
            "send multipart/form-data with a file, or JSON with a path",
        )
    try:
        yield incoming
    finally:
        await run_in_threadpool(incoming.forget)


async def _json(request: Request) -> dict[str, Any]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise Refused(413, "the JSON body is larger than 1 MB", "name the recording by a path")
    return json_object(body, "the body", '{"path": "call.wav"}')


async def _form(request: Request, place: Path, roots: Sequence[Path]) -> Incoming:
    async with request.form(
        max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    ) as form:
        given: dict[str, Any] = {}
        sent: UploadFile | None = None
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "file":
                    raise UsageError(
                        f"there is no file {printable(name)[:80]!r}",
                        "send the recording as the field file",
                    )
                sent = value
            elif name.endswith("[]"):
                given.setdefault(name, []).append(value)
            elif name in given:
                raise UsageError(f"{printable(name)[:80]} was given twice", "give it once")
            else:
                given[name] = value
        if sent is None:
            return _named(given, roots)
        if "path" in given:
            raise UsageError("both a file and a path were given", "give one of them")
        name = sent.filename or "recording"
        return await run_in_threadpool(_kept, sent, name, place, given)


def _kept(sent: UploadFile, name: str, place: Path, given: dict[str, Any]) -> Incoming:
    """The file under its own name, whose ending may say what it is, in a folder of its own."""
    folder = place / secrets.token_hex(16)
    target = folder / safe_name(name)
    try:
        folder.mkdir(mode=0o700)
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            sent.file.seek(0)
            shutil.copyfileobj(sent.file, file, 1 << 20)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise output_error(error, "the uploaded recording") from error
    return Incoming(target, name, True, given)


def safe_name(name: str) -> str:
    """The end of a file's name, of characters that mean nothing to any system."""
    last = re.split(r"[/\\]", name)[-1]
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", last)[-_NAME_CHARACTERS:].strip(". ")
    return plain or "recording"


def _named(given: dict[str, Any], roots: Sequence[Path]) -> Incoming:
    named = given.pop("path", None)
    if named is None:
        raise UsageError("there is no recording", "send a file, or name one by its path")
    if not isinstance(named, str) or not named or "\0" in named:
        raise UsageError("path is no path", "give the path of a recording")
    return Incoming(below_root(named, roots), named, False, given)


def below_root(named: str, roots: Sequence[Path]) -> Path:
    """A file below one of the folders, links followed.

    Raises:
        Refused: there is none, which says nothing of files elsewhere.
    """
    if not roots:
        raise Refused(403, "this server reads no files of its own", "send the recording")
    for root in roots:
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            top = root.resolve(strict=True)
            found = (top / named).resolve(strict=True)
            if found.is_relative_to(top) and found.is_file():
                return found
    raise Refused(
        404,
        f"there is no recording {printable(named)[:200]!r}",
        "give a path below a folder that the server was started with (--root)",
    )
