"""Speech described in text, from metadata records of several shapes.

A record is one JSON object: a line of a manifest (`audio`, `transcript`, `gender`, ...), a
`SpeakerMeta` with the recording's path beside it, or the document of `speechmeta analyze`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speechmeta.errors import DatasetError
from speechmeta.schema import LABEL_FIELDS

NO_SPEECH = "(no speech)"


@dataclass(frozen=True)
class DescribedSpeech:
    """A recording in words.

    Attributes:
        id: tells records apart; stable over runs.
        audio: path of the recording; absolute where it was read from a file.
        description: what a language model that cannot hear gets.
        transcript: the words alone, None where they are not known.
    """

    id: str
    audio: str
    description: str
    transcript: str | None


def read_records(path: Path) -> Iterator[DescribedSpeech]:
    """Describes every record of a JSON Lines file (or one JSON document).

    Relative audio paths are taken from the file's folder; where nothing lies there, from the
    working directory, which is what the documents of `speechmeta analyze` are relative to.

    Raises:
        DatasetError: the file cannot be read, or a record has no audio or no metadata.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}", "check the path") from error
    for number, record in _objects(text, path):
        try:
            described = describe(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(
                f"{path}, record {number}: {error}",
                "a record has audio (a path) and metadata: a transcript, labels, or turns",
            ) from error
        yield replace(described, audio=str(_located(Path(described.audio), path.parent)))


def _located(audio: Path, folder: Path) -> Path:
    """An absolute path: the training manifest may lie in any folder."""
    beside = (folder / audio).absolute()
    return audio.absolute() if audio.is_file() and not beside.is_file() else beside


def _objects(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, dict):
        yield 1, whole
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DatasetError(
                f"{path}, line {number} is not JSON: {error}", "one object a line"
            ) from error
        if not isinstance(record, dict):
            raise DatasetError(f"{path}, line {number} is not a JSON object", "one object a line")
        yield number, record


def describe(record: dict[str, Any]) -> DescribedSpeech:
    """Describes one record.

    Turns become lines such as `[00:03 - 00:07] customer: I have waited for an hour. (Gender:
    Male, Emotion: Frustrated)`; a record of one clip is one line without times.

    Raises:
        ValueError: there is no audio, or nothing to say about it.
    """
    audio = record.get("audio")
    if isinstance(audio, dict):
        audio = audio.get("path")
    if not isinstance(audio, str) or not audio:
        raise ValueError("no audio")
    turns = record.get("turns")
    if turns is not None:
        lines = [_turn(turn) for turn in turns]
        words = [t["Transcript"] for t in turns if t.get("Transcript")]
        transcript = " ".join(words) if turns else ""
    else:
        lines = [_line(record)]
        transcript = _field(record, "Transcript")
    description = "\n".join(lines) if lines else NO_SPEECH
    if not description:
        raise ValueError("neither a transcript nor a label")
    content = json.dumps([audio, description], ensure_ascii=False)
    identity = record.get("id") or hashlib.sha256(content.encode()).hexdigest()[:16]
    return DescribedSpeech(str(identity), audio, description, transcript)


def _field(record: dict[str, Any], name: str) -> Any:
    value = record.get(name, record.get(name.lower()))
    return value.get("value") if isinstance(value, dict) else value


def _line(record: dict[str, Any]) -> str:
    speech = record.get("SpeechActivity", record.get("speech", True))
    if not speech:
        return NO_SPEECH
    labels = [f"{field}: {value}" for field in LABEL_FIELDS if (value := _field(record, field))]
    if record.get("duration") and "turns" not in record and "start" not in record:
        labels.append(f"Duration: {float(record['duration']):.1f} s")
    words = _field(record, "Transcript") or ""
    attributes = f"({', '.join(labels)})" if labels else ""
    return f"{words} {attributes}".strip()


def _turn(turn: dict[str, Any]) -> str:
    who = turn.get("speaker")
    name = f" {who}:" if who else ""
    return f"[{_clock(turn['start'])} - {_clock(turn['end'])}]{name} {_line(turn)}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


__all__ = ["NO_SPEECH", "DescribedSpeech", "describe", "read_records"]
