"""The data sets by name."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import replace
from pathlib import Path

from speechmeta.errors import DatasetError, UsageError

from ..types import Dataset
from .catalogue import READERS, Entry


def read_dataset(
    name: str,
    data: str | Path,
    split: str | None = None,
    *,
    classes: int | None = None,
    limit: int | None = None,
    sample: int | None = None,
) -> Dataset:
    """Reads a data set as its official distribution unpacks.

    Args:
        name: one of `catalogue.READERS`.
        data: the folder, or the manifest file.
        split: the split's name in the distribution; None for the reader's default.
        classes: for IEMOCAP, 4 (the default) or 5 emotion classes.
        limit: only the first so many clips.
        sample: only so many clips, drawn by their names; a smaller draw is part of a larger one,
            so that a run over it can be resumed to become the larger one.

    Raises:
        UsageError: no such reader, or an option that this reader does not have.
        DatasetError: the folder or file is not what the reader expects.
    """
    path = Path(data).expanduser()
    entry = READERS.get(name)
    if entry is None:
        raise UsageError(f"unknown data set {name!r}", f"choose from {', '.join(READERS)}")
    if classes is not None and not entry.classes:
        raise UsageError(f"{name} has no choice of emotion classes", "it is an option of iemocap")
    for option, count in (("limit", limit), ("sample", sample)):
        if count is not None and count < 1:
            raise UsageError(f"the {option} is {count}", "it has to be at least 1")
    if not path.exists():
        raise DatasetError(f"there is no {path}", "check --data")
    dataset = _read(entry, path, split, classes)
    if not dataset.clips:
        raise DatasetError(f"{path} holds no clips", "check --data and --split")
    _check_ids(dataset)
    dataset = replace(dataset, source=str(data))
    if limit is not None:
        dataset = replace(dataset, clips=dataset.clips[:limit])
    return dataset if sample is None else _drawn(dataset, sample)


def _drawn(dataset: Dataset, count: int) -> Dataset:
    """The clips whose names hash lowest, in the data set's own order."""
    if count >= len(dataset.clips):
        return dataset
    order = sorted(hashlib.sha256(clip.id.encode("utf-8")).digest() for clip in dataset.clips)
    last = order[count - 1]
    clips = [c for c in dataset.clips if hashlib.sha256(c.id.encode("utf-8")).digest() <= last]
    note = f"{count} of {len(dataset.clips)} clips, drawn by their names."
    return replace(dataset, clips=clips, notes=(*dataset.notes, note))


def _read(entry: Entry, path: Path, split: str | None, classes: int | None) -> Dataset:
    module, _, name = entry.reader.partition(":")
    read = getattr(importlib.import_module(f".{module}", __package__), name)
    found: Dataset = read(path, split, classes or 4) if entry.classes else read(path, split)
    return found


def _check_ids(dataset: Dataset) -> None:
    seen: set[str] = set()
    for clip in dataset.clips:
        if clip.id in seen:
            raise DatasetError(
                f"the clip {clip.id!r} occurs twice in {dataset.source}",
                "every clip needs a different name",
            )
        seen.add(clip.id)
