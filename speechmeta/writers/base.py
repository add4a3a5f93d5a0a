"""What every writer has: a name, an extension, and `write`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import IO

from speechmeta.schema import CallReport
from speechmeta.writers.files import atomic_file


class Writer(ABC):
    """Writes one report into one file of one format."""

    name: str
    """The format's name on the command line, and the file's extension without the dot."""

    @property
    def extension(self) -> str:
        return f".{self.name}"

    def check(self) -> None:  # noqa: B027 - most writers need nothing
        """Looks for what the writer needs, before anything is analysed.

        Raises:
            MissingExtraError: a library is not installed.
        """

    def write(
        self, report: CallReport, path: str | os.PathLike[str], *, overwrite: bool = False
    ) -> None:
        """Writes the report to `path`, whole or not at all.

        Raises:
            OutputError: the file exists and `overwrite` is false, or it cannot be written.
        """
        with atomic_file(path, overwrite=overwrite) as file:
            self.dump(report, file)

    @abstractmethod
    def dump(self, report: CallReport, file: IO[bytes]) -> None:
        """Writes the report's bytes to an open binary file."""


class TextWriter(Writer):
    """A writer whose format is text; files are UTF-8 with `\\n` line ends."""

    @abstractmethod
    def text(self, report: CallReport) -> str:
        """The file's whole content."""

    def dump(self, report: CallReport, file: IO[bytes]) -> None:
        file.write(self.text(report).encode("utf-8"))
