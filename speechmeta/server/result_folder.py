"""Results on the disk, searched for turns: those of folder runs and of `analyze -o`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechmeta.errors import UsageError
from speechmeta.schema import LABEL_FIELDS
from speechmeta.writers.files import printable

MAX_DOCUMENT_BYTES = 256 << 20
"""Longer lines and files are left out: no call has so many turns."""


@dataclass(frozen=True)
class Search:
    """Which turns are wanted.

    Attributes:
        text: words of the transcript, all of which have to occur; case does not matter.
        call: part of the recording's path. speaker: its name.
        labels: values by field, such as `{"Emotion": "Anger"}`.
    """

    text: str = ""
    call: str = ""
    speaker: str = ""
    labels: Mapping[str, str] | None = None

    def takes(self, turn: Mapping[str, Any]) -> bool:
        """Whether a turn of a document is wanted."""
        said = str(turn.get("Transcript") or "").casefold()
        if not all(word in said for word in self.text.casefold().split()):
            return False
        if self.speaker and turn.get("speaker") != self.speaker:
            return False
        return all(turn.get(name) == value for name, value in (self.labels or {}).items())


class ResultFolder:
    """The documents below a folder; read anew each time, nothing is written.

    Args:
        folder: such as the `-o` folder of `speechmeta batch`.

    Raises:
        UsageError: it is not a folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(
                f"{printable(folder)} is not a folder", "give the -o folder of speechmeta batch"
            )
        self._folder = folder.resolve()

    def documents(self) -> Iterator[dict[str, Any]]:
        """Each call's document once, in the order of the files; other files are passed over."""
        seen: set[str] = set()
        for path in self._files():
            for document in _documents_of(path):
                name = str(document["audio"].get("path"))
                if name not in seen:
                    seen.add(name)
                    yield document

    def find(self, call: str) -> dict[str, Any]:
        """The document of one call.

        Args:
            call: its recording's path, or the end of it.

        Raises:
            UsageError: there is none, or there are several.
        """
        found = []
        for document in self.documents():
            path = str(document["audio"].get("path"))
            if path == call:
                return document
            if call and path.endswith("/" + call):
                found.append(document)
        if len(found) == 1:
            return found[0]
        many = f"{len(found)} calls are called" if found else "there is no result of"
        raise UsageError(f"{many} {call!r}", "search_turns shows the paths of calls")

    def search(
        self, wanted: Search, limit: int, offset: int = 0
    ) -> tuple[list[dict[str, Any]], bool]:
        """Turns with their call, and whether there are more.

        Raises:
            UsageError: a label is not one.
        """
        unknown = set(wanted.labels or {}) - set(LABEL_FIELDS)
        if unknown:
            raise UsageError(
                f"{sorted(unknown)[0]!r} is no label", f"choose from {', '.join(LABEL_FIELDS)}"
            )
        found: list[dict[str, Any]] = []
        passed = 0
        for document in self.documents():
            path = str(document["audio"].get("path"))
            if wanted.call not in path:
                continue
            for turn in document["turns"]:
                if not isinstance(turn, dict) or not wanted.takes(turn):
                    continue
                passed += 1
                if passed <= offset:
                    continue
                if len(found) == limit:
                    return found, True
                kept = {name: value for name, value in turn.items() if name != "words"}
                found.append({"call": path, **kept})
        return found, False

    def _files(self) -> Iterator[Path]:
        for base, folders, names in os.walk(self._folder):
            folders.sort()
            # A run's own results first: they hold all calls.
            for name in sorted(names, key=lambda item: (item != "results.jsonl", item)):
                path = Path(base, name)
                if path.suffix not in (".json", ".jsonl") or not path.is_file():
                    continue
                # A link may lead out of the folder.
                if path.resolve().is_relative_to(self._folder):
                    yield path


def _documents_of(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            if path.suffix == ".jsonl":
                while line := file.readline(MAX_DOCUMENT_BYTES):
                    yield from _document(line)
            elif path.stat().st_size <= MAX_DOCUMENT_BYTES:
                yield from _document(file.read())
    except OSError:
        return


def _document(data: bytes) -> Iterator[dict[str, Any]]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(found, dict):
        return
    if isinstance(found.get("turns"), list) and isinstance(found.get("audio"), dict):
        yield found
