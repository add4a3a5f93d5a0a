"""Reader of JSONL manifests, one JSON object a clip, in either of two styles of keys.

Open ASR Leaderboard: `audio_filepath`, `duration`, `text`. This project's: `audio`,
`duration`, `dataset`, `speaker`, `speech`, `transcript`, `gender`, `age`, `accent`,
`emotion`. Rows may mix them; audio paths are relative to the manifest. Its splits are the two
halves of `speechmeta.training.splits`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechmeta.errors import DatasetError, UsageError
from speechmeta.schema import LABEL_FIELDS
from speechmeta.training.splits import HALVES, assign_halves

from ..types import Clip, Dataset
from .labels import LabelMapper
from .registry import read_lines

AUDIO_KEYS = ("audio", "audio_filepath")
TRANSCRIPT_KEYS = ("transcript", "text", "Transcript")
SPEECH_KEYS = ("speech", "SpeechActivity")


def read_manifest(path: Path, split: str | None) -> Dataset:
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
    if path.is_dir():
        raise DatasetError(f"{path} is a folder", "give the manifest's .jsonl file")
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            with _line(path, number):
                rows.append((number, _row(line)))
    if split is not None:
        halves = assign_halves([row for _, row in rows])
        rows = [item for item, half in zip(rows, halves, strict=True) if half == split]
    mapper = LabelMapper("manifest")
    clips: list[Clip] = []
    seen: Counter[str] = Counter()
    for number, row in rows:
        with _line(path, number):
            clip = _clip(row, path, mapper)
        seen[clip.id] += 1
        if seen[clip.id] > 1:
            clip = replace(clip, id=f"{clip.id}#{seen[clip.id]}")
        clips.append(clip)
    return Dataset("manifest", str(path), split, clips, mapper.report())


@contextmanager
def _line(path: Path, number: int) -> Iterator[None]:
    """Errors in one line of the manifest name it."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise DatasetError(
            f"{path}, line {number}: {error}",
            "each line is a JSON object with audio or audio_filepath, and references",
        ) from error


def _row(line: str) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("not an object")
    audio = _first(row, AUDIO_KEYS)
    if not isinstance(audio, str) or not audio:
        raise ValueError("no audio path")
    return row


def _clip(row: dict[str, Any], manifest: Path, mapper: LabelMapper) -> Clip:
    audio = str(_first(row, AUDIO_KEYS))
    speech = _first(row, SPEECH_KEYS)
    if speech is not None and not isinstance(speech, bool):
        raise ValueError(f"speech is {speech!r}, not true or false")
    transcript = _first(row, TRANSCRIPT_KEYS)
    if transcript is not None and not isinstance(transcript, str):
        raise ValueError(f"the transcript is {transcript!r}, not text")
    if speech is None and transcript is not None and transcript.strip():
        speech = True
    labels = {field: _label(row, field) for field in LABEL_FIELDS}
    duration = row.get("duration")
    speaker = row.get("speaker")
    return Clip(
        id=str(row["id"]) if row.get("id") is not None else audio,
        # An absolute path stays what it is.
        audio=manifest.parent / audio,
        dataset=str(row.get("dataset") or manifest.stem),
        speaker=None if speaker is None else str(speaker),
        duration=None if duration is None else float(duration),
        speech=speech,
        transcript=transcript,
        labels=mapper.labels(**{field.lower(): value for field, value in labels.items()}),
        source_labels={field: value for field, value in labels.items() if value is not None},
    )


def _label(row: dict[str, Any], field: str) -> str | None:
    value = _first(row, (field.lower(), field))
    return None if value is None else str(value)


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)
