"""Results of a folder run on their way into a database.

The journal has every result before the database gets it, and knows which database took it: what
is missing there, after a kill or because it did not answer, is caught up with at the end of the
run and at the end of every later one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from speechmeta.batch.job import Ask, Job, ModelFacts, Spill
from speechmeta.batch.journal import Finished, Journal, believed
from speechmeta.errors import SpeechMetaError, require_extra
from speechmeta.schema import CallReport
from speechmeta.store.digest import digest_of
from speechmeta.writers.structured import compact

if TYPE_CHECKING:
    from speechmeta.store.sink import Sink

PAUSES = (0.0, 2.0, 5.0)
"""Seconds before each attempt at a database that does not answer at the end of a run."""

PART = "sink"
"""In `failures` of a document that the database does not hold."""


@contextmanager
def opened(url: str | None, *, there: bool = False) -> Iterator[Sink | None]:
    """The database of a URL, closed at the end; None for None.

    Args:
        there: a file that does not exist is not made.

    Raises:
        UsageError, StoreError: see `Sink`.
    """
    if url is None:
        yield None
        return
    require_extra("sqlalchemy", "store", "--sink")
    from speechmeta.store.sink import Sink

    with Sink(url, there=there) as sink:
        yield sink


@dataclass(frozen=True)
class KnownJob:
    """A job whose reports know the digest of their recording, which its worker reads for it."""

    job: Job

    def warm_up(self) -> None:
        self.job.warm_up()

    def prepare(self, path: str, spill: Spill, ask: Ask) -> tuple[str, Any]:
        """The digest, and what the job returns."""
        return digest_of(path), self.job.prepare(path, spill, ask)

    def assemble(
        self, prepared: tuple[str, Any], records: Sequence[Any], model: ModelFacts
    ) -> CallReport:
        """The job's report."""
        digest, state = prepared
        return self.job.assemble(state, records, model).with_digest(digest)


class Storing:
    """Takes results from a journal to a database; failures of the database are noted, not raised.

    Args:
        root: the folder of recordings, or its address.
    """

    def __init__(self, sink: Sink, journal: Journal, root: bytes) -> None:
        self._sink = sink
        self._journal = journal
        self._root = root

    def store(self, number: int) -> str:
        """Stores the result of a file that was just finished, by its id; returns why it could
        not, or nothing."""
        found = self._journal.result(number)
        return "" if found is None else self._stored(*found)

    def catch_up(self) -> int:
        """Stores what the database does not have, more than once where it does not answer;
        returns how many results it still lacks."""
        lacking = 0
        for pause in PAUSES:
            time.sleep(pause)
            self._sink.try_again()
            with believed(self._journal.output):
                found = self._journal.not_in(self._sink.address)
                lacking = sum(bool(self._stored(finished, line)) for finished, line in found)
            if not self._sink.is_away:
                break
        return lacking

    def _stored(self, finished: Finished, line: str) -> str:
        data = json.loads(line)
        if "error" in data:
            return ""
        digest = finished.digest
        failed: SpeechMetaError | None
        try:
            digest = digest or self._digest(finished)
            whole, failed = written(self._sink, digest, data, finished.at)
        except SpeechMetaError as error:
            whole, failed = noted(data, error), error
        place = finished.stored if failed else self._sink.address
        self._journal.stored(finished.id, digest, place, compact(whole))
        return f"no {PART}: {failed.message}" if failed else ""

    def _digest(self, finished: Finished) -> str:
        """Of a recording whose result was there before there was a database."""
        return digest_of(os.fsdecode(os.path.join(self._root, finished.relative)))


def written(
    sink: Sink, digest: str, data: dict[str, Any], analysed: float | None = None
) -> tuple[dict[str, Any], SpeechMetaError | None]:
    """Writes a document to a database; returns it as it is to be kept, and why it is not there.

    Args:
        digest, data, analysed: see `Sink.write`.
    """
    whole = noted(data, None)
    try:
        sink.write(digest, whole, analysed)
    except SpeechMetaError as error:
        return noted(data, error), error
    return whole, None


def noted(data: dict[str, Any], error: SpeechMetaError | None) -> dict[str, Any]:
    """A document that says whether the database lacks it, whatever it said before."""
    kept = [item for item in data.get("failures", []) if item["part"] != PART]
    if error is not None:
        kept.append({"part": PART, "message": error.message, "hint": error.hint})
    plain = {name: value for name, value in data.items() if name != "failures"}
    return _with_failures(plain, kept)


def _with_failures(data: dict[str, Any], failures: list[dict[str, Any]]) -> dict[str, Any]:
    """A document with these failures, in the place where the schema has them."""
    if not failures:
        return data
    made = {name: value for name, value in data.items() if name != "warnings"}
    return {**made, "failures": failures, "warnings": data["warnings"]}


__all__ = ["PART", "KnownJob", "Storing", "noted", "opened", "written"]
