"""Manifests as a data set; `speechmeta.training.manifest` says what they hold.

Their splits are the two halves of `speechmeta.training.splits`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from speechmeta.errors import UsageError
from speechmeta.schema import LABEL_FIELDS
from speechmeta.training.manifest import Row, read_rows
from speechmeta.training.splits import HALVES, assign_halves

from ..types import Clip, Dataset
from .label_maps import LabelMapper


def read_jsonl(path: Path, split: str | None) -> Dataset:
    """The clips of a manifest, or of one half of it.

    Args:
        split: `tune` or `test` (see `speechmeta.training.splits`); None for all clips.

    Raises:
        DatasetError: the file cannot be read, or a line is not as it should be.
        UsageError: no such split.
    """
    if split is not None and split not in HALVES:
        raise UsageError(
            f"a manifest has no split {split!r}",
            "choose tune or test, its halves by speaker, or give a file of its own as --data",
        )
    rows = list(read_rows(path))
    if split is not None:
        halves = assign_halves([row.keys for row in rows])
        rows = [row for row, half in zip(rows, halves, strict=True) if half == split]
    mapper = LabelMapper("manifest")
    seen: Counter[str] = Counter()
    clips: list[Clip] = []
    for row in rows:
        seen[row.id] += 1
        name = row.id if seen[row.id] == 1 else f"{row.id}#{seen[row.id]}"
        clips.append(_clip(row, name, mapper))
    silent = sum(row.speech is False and bool(row.labels) for row in rows)
    notes = (f"Labels of {silent} clips without speech are left out.",) if silent else ()
    return Dataset("manifest", str(path), split, clips, mapper.report(), notes)


def _clip(row: Row, name: str, mapper: LabelMapper) -> Clip:
    # Where nobody speaks (a laugh, a sigh) no label is asked for, whatever the source notes.
    labels = {} if row.speech is False else row.labels
    return Clip(
        id=name,
        audio=row.audio,
        dataset=row.dataset,
        speaker=row.speaker,
        duration=row.duration,
        speech=row.speech,
        transcript=row.transcript,
        labels=mapper.labels(**{field.lower(): labels.get(field) for field in LABEL_FIELDS}),
        source_labels=labels,
    )
