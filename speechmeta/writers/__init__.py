"""One writer per output format: a `CallReport` goes in, a whole file comes out or none."""

from __future__ import annotations

from speechmeta.errors import UsageError
from speechmeta.writers.base import TextWriter, Writer
from speechmeta.writers.html import HtmlWriter
from speechmeta.writers.parquet import ParquetWriter
from speechmeta.writers.structured import JsonLinesWriter, JsonWriter
from speechmeta.writers.subtitles import SrtWriter, TxtWriter, VttWriter
from speechmeta.writers.tabular import (
    CsvWriter,
    ExcelCsvWriter,
    ExcelSemicolonWriter,
    TsvWriter,
)

__all__ = ["WRITERS", "HtmlWriter", "TextWriter", "Writer", "get_writer"]

WRITERS: dict[str, Writer] = {
    writer.name: writer
    for writer in (
        JsonWriter(),
        JsonLinesWriter(),
        CsvWriter(),
        ExcelCsvWriter(),
        ExcelSemicolonWriter(),
        TsvWriter(),
        SrtWriter(),
        VttWriter(),
        TxtWriter(),
        ParquetWriter(),
        HtmlWriter(),
    )
}
"""Every writer by its format's name, which mostly is the file's extension too."""


def get_writer(name: str) -> Writer:
    """Returns the writer of a format, such as `json`; a leading dot and case do not matter.

    Raises:
        UsageError: there is no such format, or a library that it needs is not installed.
    """
    found = WRITERS.get(name.strip().lower().removeprefix("."))
    if found is None:
        raise UsageError(f"unknown output format {name!r}", f"choose from {', '.join(WRITERS)}")
    found.check()
    return found
