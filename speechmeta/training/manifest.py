"""JSONL manifests of recordings: one object a clip, any label may be missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from speechmeta.errors import DatasetError
from speechmeta.schema import LABEL_FIELDS


@dataclass(frozen=True)
class Clip:
    """One recording of a manifest.

    Attributes:
        audio: path of the file.
        duration: seconds.
        dataset, speaker: source and speaker id; `speaker` None where unknown.
        speech: whether there is speech.
        transcript: as the source has it, or None.
        labels: the known label fields and their values.
        commercial: whether the source allows commercial use.
        years: the speaker's age where the source has it exactly.
    """

    audio: Path
    duration: float
    dataset: str
    speaker: str | None
    speech: bool
    transcript: str | None
    labels: dict[str, str]
    commercial: bool = False
    years: float | None = None


def read_manifest(path: Path) -> Iterator[Clip]:
    """Clips of a manifest; audio paths are relative to its folder.

    Raises:
        DatasetError: the file is missing, or a line is not an object with `audio`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DatasetError(
            f"cannot read the manifest {path}: {error.strerror}", "check the path"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield Clip(
                audio=path.parent / row["audio"],
                duration=float(row["duration"]),
                dataset=row.get("dataset") or path.stem,
                speaker=row.get("speaker"),
                speech=bool(row.get("speech", True)),
                transcript=row.get("transcript"),
                labels={
                    field: row[field.lower()] for field in LABEL_FIELDS if row.get(field.lower())
                },
                commercial=bool(row.get("commercial", False)),
                years=None if row.get("age_years") is None else float(row["age_years"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(
                f"{path}, line {number}: {type(error).__name__}: {error}",
                "each line is a JSON object with at least audio (a path) and duration (seconds)",
            ) from error


def read_clips(manifests: Iterable[Path], commercial_only: bool = False) -> list[Clip]:
    """All clips of several manifests, without the non-commercial ones where so wanted.

    Raises:
        DatasetError: a manifest cannot be read, or no clip is left.
    """
    clips = [clip for path in manifests for clip in read_manifest(path)]
    if commercial_only:
        clips = [clip for clip in clips if clip.commercial]
    if not clips:
        raise DatasetError("the manifests hold no clips", "check their paths and contents")
    return clips
