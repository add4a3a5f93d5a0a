"""The data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from speechmeta.errors import DatasetError, UsageError

from ..types import Dataset

DATASETS = {
    "librispeech": "LibriSpeech as unpacked: <split>/<speaker>/<chapter>/*.flac, *.trans.txt, "
    "SPEAKERS.TXT.",
    "commonvoice": "Common Voice, Corpus 4 to 20 and later: <split>.tsv and clips/*.mp3.",
    "iemocap": "IEMOCAP full release: Session1 to Session5; splits are the sessions.",
    "mswc": "Multilingual Spoken Words: en_splits.csv or en_<split>.csv and clips/<word>/*.opus.",
    "manifest": "A JSONL manifest: Open ASR Leaderboard keys, or audio/transcript/gender/...",
}
"""The readers and what they read."""


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
        name: one of `DATASETS`.
        data: the folder, or the manifest file.
        split: the split's name in the distribution; None for the reader's default.
        classes: for IEMOCAP, 4 (the default) or 5 emotion classes.
        limit: only the first so many clips.

    Raises:
        UsageError: no such reader, or an option that this reader does not have.
        DatasetError: the folder or file is not what the reader expects.
    """
    path = Path(data).expanduser()
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}", f"choose from {', '.join(DATASETS)}")
    if classes is not None and name != "iemocap":
        raise UsageError(f"{name} has no choice of emotion classes", "it is an option of iemocap")
    if limit is not None and limit < 1:
        raise UsageError(f"the limit is {limit}", "it has to be at least 1")
    if not path.exists():
        raise DatasetError(f"there is no {path}", "check --data")
    dataset = _reader(name, classes)(path, split)
    if not dataset.clips:
        raise DatasetError(f"{path} holds no clips", "check --data and --split")
    _check_ids(dataset)
    dataset = replace(dataset, source=str(data))
    return dataset if limit is None else replace(dataset, clips=dataset.clips[:limit])


def _reader(name: str, classes: int | None) -> Callable[[Path, str | None], Dataset]:
    if name == "librispeech":
        from .librispeech import read_librispeech

        return read_librispeech
    if name == "commonvoice":
        from .commonvoice import read_commonvoice

        return read_commonvoice
    if name == "iemocap":
        from .iemocap import read_iemocap

        return lambda path, split: read_iemocap(path, split, classes or 4)
    if name == "mswc":
        from .mswc import read_mswc

        return read_mswc
    from .jsonl import read_jsonl

    return read_jsonl


def _check_ids(dataset: Dataset) -> None:
    seen: set[str] = set()
    for clip in dataset.clips:
        if clip.id in seen:
            raise DatasetError(
                f"the clip {clip.id!r} stands twice in {dataset.source}",
                "every clip needs a name of its own",
            )
        seen.add(clip.id)
