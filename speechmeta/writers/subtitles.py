"""Subtitles (SubRip, WebVTT) and plain text: what was said, when and by whom."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from speechmeta.schema import LABEL_FIELDS, CallReport, Turn, Word
from speechmeta.visible import visible
from speechmeta.writers.base import TextWriter

LINE_CHARACTERS = 42
"""Longest subtitle line (the usual broadcasting rule)."""
CUE_LINES = 2
CUE_SECONDS = 7.0
"""Longest cue where word times allow a cut."""
CUE_GAP_SECONDS = 1.0
"""A pause between two words from which a new cue begins."""


@dataclass(frozen=True)
class Cue:
    """What stands on the screen from `start` to `end` (seconds)."""

    start: float
    end: float
    speaker: str
    text: str


def cues(report: CallReport) -> Iterator[Cue]:
    """The report's cues in order of time; turns without speech have none.

    A turn is one cue, or several short ones where it carries word times. A report
    whose transcript was not asked for shows its labels instead.
    """
    found = [cue for turn in report.turns for cue in _turn_cues(turn)]
    yield from sorted(found, key=lambda cue: (cue.start, cue.end))


def _turn_cues(turn: Turn) -> Iterator[Cue]:
    speaker = _one_line(turn.speaker)
    if turn.words and turn.meta.transcript:
        for group in _word_groups(turn.words, speaker):
            text = " ".join(word.word for word in group)
            yield Cue(group[0].start, group[-1].end, speaker, _one_line(text))
        return
    text = spoken_text(turn)
    if text:
        yield Cue(turn.start, turn.end, speaker, text)


def spoken_text(turn: Turn) -> str:
    """The transcript on one line, or the labels in brackets where none was asked for."""
    if "Transcript" in turn.meta.fields:
        return _one_line(turn.meta.transcript or "")
    labels = [str(turn.meta.value(name)) for name in LABEL_FIELDS if turn.meta.value(name)]
    return f"[{', '.join(labels)}]" if labels else ""


def _word_groups(words: list[Word], speaker: str) -> Iterator[list[Word]]:
    group: list[Word] = []
    for word in words:
        if group:
            text = " ".join([f"{speaker}:", *(item.word for item in group), word.word])
            high = _wrapped(text).count("\n") >= CUE_LINES
            late = word.end - group[0].start > CUE_SECONDS
            if high or late or word.start - group[-1].end > CUE_GAP_SECONDS:
                yield group
                group = []
        group.append(word)
    if group:
        yield group


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()))


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, LINE_CHARACTERS, break_on_hyphens=False))


def timestamp(seconds: float, point: str = ".") -> str:
    """`HH:MM:SS.mmm`; hours grow beyond two digits where they must."""
    milliseconds = round(max(seconds, 0.0) * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


class SrtWriter(TextWriter):
    """SubRip; the speaker stands before the text.

    Args:
        speakers: False leaves them out.
    """

    name = "srt"

    def __init__(self, speakers: bool = True) -> None:
        self._speakers = speakers

    def text(self, report: CallReport) -> str:
        blocks = []
        for number, cue in enumerate(cues(report), start=1):
            # Players read "-->" in a text line as a time line.
            text = f"{cue.speaker}: {cue.text}" if self._speakers else cue.text
            text = text.replace("-->", "->")
            times = f"{timestamp(cue.start, ',')} --> {timestamp(cue.end, ',')}"
            blocks.append(f"{number}\n{times}\n{_wrapped(text)}\n")
        return "\n".join(blocks)


class VttWriter(TextWriter):
    """WebVTT with voice spans (`<v speaker>`), which players can style.

    Args:
        speakers: False leaves them out.
    """

    name = "vtt"

    def __init__(self, speakers: bool = True) -> None:
        self._speakers = speakers

    def text(self, report: CallReport) -> str:
        blocks = ["WEBVTT\n"]
        for number, cue in enumerate(cues(report), start=1):
            times = f"{timestamp(cue.start)} --> {timestamp(cue.end)}"
            voice = _vtt_escaped(cue.speaker)
            text = _vtt_escaped(_wrapped(cue.text))
            said = f"<v {voice}>{text}</v>" if self._speakers else text
            blocks.append(f"{number}\n{times}\n{said}\n")
        return "\n".join(blocks)


def _vtt_escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class TxtWriter(TextWriter):
    """One line a turn, for reading."""

    name = "txt"

    def text(self, report: CallReport) -> str:
        lines = []
        for turn in report.turns:
            text = spoken_text(turn)
            if not text and "Transcript" not in turn.meta.fields:
                text = "(no transcript)"
            elif not text:
                text = "(no speech)" if turn.meta.speech_activity is False else "(nothing said)"
            span = f"{timestamp(turn.start)} - {timestamp(turn.end)}"
            lines.append(f"[{span}] {_one_line(turn.speaker)}: {text}\n")
        return "".join(lines)
