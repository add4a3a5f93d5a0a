"""JSONL manifests of recordings: one object a clip, in either of two styles of keys.

This project's: `audio`, `duration`, `dataset`, `speaker`, `speech`, `transcript`, `gender`,
`age`, `accent`, `emotion`, `commercial`, `age_years`. Open ASR Leaderboard: `audio_filepath`,
`duration`, `text`. Rows may mix them; any label may be missing. Training and `speechmeta eval`
read them here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechmeta.errors import DatasetError
from speechmeta.schema import LABEL_FIELDS

AUDIO_KEYS = ("audio", "audio_filepath")
TRANSCRIPT_KEYS = ("transcript", "text", "Transcript")
SPEECH_KEYS = ("speech", "SpeechActivity")


@dataclass(frozen=True)
class Row:
    """One line of a manifest, as it says.

    Attributes:
        id: the row's own, or else the audio's path as written.
        audio: path of the file; relative ones are in the manifest's folder.
        duration: seconds.
        dataset, speaker: source and speaker id; the manifest's name where it names no source.
        speech: whether there is speech; a transcript says that there is.
        labels: the known label fields and their values.
        commercial: whether the source allows commercial use.
        years: the speaker's age where the source has it exactly.
        keys: the whole object.
    """

    id: str
    audio: Path
    duration: float | None
    dataset: str
    speaker: str | None
    speech: bool | None
    transcript: str | None
    labels: dict[str, str]
    commercial: bool
    years: float | None
    keys: dict[str, Any]


@dataclass(frozen=True)
class Clip:
    """One recording to learn from.

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


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a manifest.

    Raises:
        DatasetError: the file cannot be read, or a line is not as it should be.
    """
    for number, line in _lines(path):
        with _named(path, number):
            yield _row(json.loads(line), path)


def read_manifest(path: Path) -> Iterator[Clip]:
    """Clips of a manifest to learn from; those that do not say otherwise have speech.

    Raises:
        DatasetError: the file cannot be read, or a line is not an object with audio and duration.
    """
    for number, line in _lines(path):
        with _named(path, number):
            row = _row(json.loads(line), path)
            if row.duration is None:
                raise ValueError("no duration")
            yield Clip(
                audio=row.audio,
                duration=row.duration,
                dataset=row.dataset,
                speaker=row.speaker,
                speech=row.speech is not False,
                transcript=row.transcript,
                labels=row.labels,
                commercial=row.commercial,
                years=row.years,
            )


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


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if path.is_dir():
        raise DatasetError(f"{path} is a folder", "give the manifest's .jsonl file")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"cannot read the manifest {path}: {reason}", "check it") from error
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


@contextmanager
def _named(path: Path, number: int) -> Iterator[None]:
    """Errors in one line of the manifest name it."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise DatasetError(
            f"{path}, line {number}: {error}",
            "each line is a JSON object with audio or audio_filepath, duration (seconds), and "
            "references",
        ) from error


def _row(keys: object, manifest: Path) -> Row:
    if not isinstance(keys, dict):
        raise ValueError("not an object")
    audio = _first(keys, AUDIO_KEYS)
    if not isinstance(audio, str) or not audio:
        raise ValueError("no audio path")
    speech = _first(keys, SPEECH_KEYS)
    if speech is not None and not isinstance(speech, bool):
        raise ValueError(f"speech is {speech!r}, not true or false")
    transcript = _first(keys, TRANSCRIPT_KEYS)
    if transcript is not None and not isinstance(transcript, str):
        raise ValueError(f"the transcript is {transcript!r}, not text")
    if speech is None and transcript is not None and transcript.strip():
        speech = True
    labels = {field: _first(keys, (field.lower(), field)) for field in LABEL_FIELDS}
    duration, speaker, years = keys.get("duration"), keys.get("speaker"), keys.get("age_years")
    return Row(
        id=audio if keys.get("id") is None else str(keys["id"]),
        # An absolute path stays what it is.
        audio=manifest.parent / audio,
        duration=None if duration is None else float(duration),
        dataset=str(keys.get("dataset") or manifest.stem),
        speaker=None if speaker is None else str(speaker),
        speech=speech,
        transcript=transcript,
        labels={field: str(value) for field, value in labels.items() if value},
        commercial=bool(keys.get("commercial", False)),
        years=None if years is None else float(years),
        keys=keys,
    )


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)
