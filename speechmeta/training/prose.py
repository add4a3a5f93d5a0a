"""Sentences of books and other plain text, for the language models of a checkpoint.

Run as `python -m speechmeta.training.prose TEXTS... --held-out MANIFEST --output FILE`. It reads
text and markdown files, or folders of them, and writes one normalised sentence a line, gzipped
where the name ends so. What a held-out manifest says is left out: a model that has read the
answers measures nothing.
"""

from __future__ import annotations

import argparse
import gzip
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO, cast

from speechmeta.errors import DatasetError
from speechmeta.training.manifest import read_manifest
from speechmeta.training.text import normalize_transcript

_SUFFIXES = (".md", ".txt")
_SPOKEN = {
    r"\bmr\b\.?": "mister",
    r"\bmrs\b\.?": "missus",
    r"\bdr\b\.?": "doctor",
    r"\bst\. (?=[A-Z])": "saint ",
    r"\betc\b\.?": "et cetera",
}
_SPOKEN_PATTERNS = [(re.compile(old, re.IGNORECASE), new) for old, new in _SPOKEN.items()]
_SENTENCE_END = re.compile(r"(?<=[.!?;:])[\"'\u201d\u2019)]*\s+")
_MARKS = re.compile(r"[_*\ufeff]+")
_HEADING = re.compile(r"^\s*(#|-{3,}|\||!\[|>)")
_SHARED_WORDS = 7
_MOST_WORDS = 60


def prose_sentences(text: str) -> Iterator[str]:
    """Normalised sentences of a text, as they are spoken; those with digits are left out.

    Headings, tables, quotations and rules of markdown are no sentences.
    """
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line for line in paragraph.splitlines() if not _HEADING.match(line)]
        joined = _MARKS.sub("", " ".join(lines))
        for pattern, new in _SPOKEN_PATTERNS:
            joined = pattern.sub(new, joined)
        for sentence in _SENTENCE_END.split(joined):
            said = normalize_transcript(sentence)
            if said and said.count(" ") < _MOST_WORDS:
                yield said


class HeldOut:
    """What must not be read: whole sentences, and any run of seven words of them."""

    def __init__(self, transcripts: Iterable[str]) -> None:
        self._whole: set[str] = set()
        self._runs: set[tuple[str, ...]] = set()
        for transcript in transcripts:
            said = normalize_transcript(transcript)
            if said:
                self._whole.add(said)
                self._runs.update(_runs(said.split()))

    @classmethod
    def of_manifests(cls, paths: Iterable[Path]) -> HeldOut:
        """The transcripts of manifests.

        Raises:
            DatasetError: a manifest cannot be read.
        """
        return cls(clip.transcript for path in paths for clip in read_manifest(path)
                   if clip.transcript)  # fmt: skip

    def __contains__(self, sentence: str) -> bool:
        if sentence in self._whole:
            return True
        return any(run in self._runs for run in _runs(sentence.split()))


def _runs(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(_SHARED_WORDS)), strict=False)


def text_files(paths: Iterable[Path]) -> list[Path]:
    """The text and markdown files of paths, folders searched through, in order.

    Raises:
        DatasetError: a path is missing, or a folder has no such file.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
            if not inside:
                raise DatasetError(f"{path} has no text", f"files end in {' or '.join(_SUFFIXES)}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DatasetError(f"{path} is missing", "check the path")
    return found


def open_text(path: Path, mode: str) -> TextIO:
    """A text file, gzipped where the name says so."""
    opener = gzip.open if path.suffix == ".gz" else open
    return cast(TextIO, opener(path, mode + "t", encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--held-out", action="append", type=Path, default=[])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--by-line", action="store_true", help="every line is a sentence")
    options = parser.parse_args(arguments)
    held_out = HeldOut.of_manifests(options.held_out)
    written = dropped = words = 0
    with open_text(options.output, "w") as output:
        for path in text_files(options.texts):
            text = path.read_text(encoding="utf-8", errors="replace")
            if options.by_line:
                text = "\n\n".join(text.splitlines())
            for sentence in prose_sentences(text):
                if sentence in held_out:
                    dropped += 1
                    continue
                output.write(sentence + "\n")
                written += 1
                words += sentence.count(" ") + 1
    print(f"{options.output}: {written} sentences, {words} words; {dropped} held out")


if __name__ == "__main__":
    main()
