"""The data sets by name."""

from __future__ import annotations

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
) -> Dataset:
    """Reads a data set as its official distribution unpacks.

    Args:
        name: one of `catalogue.READERS`.
        data: the folder, or the manifest file.
        split: the split's name in the distribution; None for the reader's default.
        classes: for IEMOCAP, 4 (the default) or 5 emotion classes.
        limit: only the first so many clips.

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
    if limit is not None and limit < 1:
        raise UsageError(f"the limit is {limit}", "it has to be at least 1")
    if not path.exists():
        raise DatasetError(f"there is no {path}", "check --data")
    dataset = _read(entry, path, split, classes)
    if not dataset.clips:
        raise DatasetError(f"{path} holds no clips", "check --data and --split")
    _check_ids(dataset)
    dataset = replace(dataset, source=str(data))
    return dataset if limit is None else replace(dataset, clips=dataset.clips[:limit])


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
