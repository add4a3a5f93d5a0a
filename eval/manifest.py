"""Reader of JSONL manifests, one JSON object a clip, in either of two styles of keys.

Open ASR Leaderboard: `audio_filepath`, `duration`, `text`. This project's: `audio`,
`duration`, `dataset`, `speaker`, `speech`, `transcript`, `gender`, `age`, `accent`,
`emotion`. Rows may mix them; audio paths are relative to the manifest.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechmeta.errors import DatasetError, UsageError
from speechmeta.schema import LABEL_FIELDS

from .labels import LabelMapper
from .readers import read_lines
from .types import Clip, Dataset

AUDIO_KEYS = ("audio", "audio_filepath")
TRANSCRIPT_KEYS = ("transcript", "text", "Transcript")
SPEECH_KEYS = ("speech", "SpeechActivity")


def read_manifest(path: Path, split: str | None) -> Dataset:
    """All clips of a manifest.

    Raises:
        DatasetError: the file cannot be read, or a line is not as it should be.
        UsageError: a split was asked for; a manifest has none.
    """
    if split is not None:
        raise UsageError("a manifest has no splits", "give the file of the split as --data")
    if path.is_dir():
        raise DatasetError(f"{path} is a folder", "give the manifest's .jsonl file")
    mapper = LabelMapper("manifest")
    clips: list[Clip] = []
    seen: Counter[str] = Counter()
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
            clip = _clip(row, path, mapper)
            seen[clip.id] += 1
            if seen[clip.id] > 1:
                clip = replace(clip, id=f"{clip.id}#{seen[clip.id]}")
            clips.append(clip)
        except (ValueError, TypeError) as error:
            raise DatasetError(
                f"{path}, line {number}: {error}",
                "each line is a JSON object with audio or audio_filepath, and references",
            ) from error
    return Dataset("manifest", str(path), None, clips, mapper.report())


def _clip(row: dict[str, Any], manifest: Path, mapper: LabelMapper) -> Clip:
    audio = _first(row, AUDIO_KEYS)
    if not isinstance(audio, str) or not audio:
        raise ValueError("no audio path")
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
