"""A call as it is read on a terminal: what was said first, the labels beside or beneath it.

Rows are printed one by one, as turns end, so the widths of the columns are settled before the
first of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from speechmeta.visible import visible, visible_line

if TYPE_CHECKING:
    from rich.console import Console

    from speechmeta.schema import Alert, AudioInfo, CallReport, SpeakerSummary, Turn

_BESIDE = {"SpeechActivity": 9, "Gender": 11, "Age": 15, "Accent": 20, "Emotion": 15}
"""Cells of each column of labels, with its probability."""
_TRANSCRIPT_BESIDE = 50
"""Cells that a transcript has to have left before labels get columns of their own."""
_PROBABILITIES_FROM = 72
"""Width below which labels stand without their probability."""
_ENDS_FROM = 100
"""Width below which the time is only that of the start."""
_LONGEST_SPEAKER = 20
_GAP = 2


class CallTable:
    """Prints the turns of calls.

    Args:
        width: cells of a line; decides on the columns.
        fields: the fields that are shown.
        speakers: the names that may come, for the width of their column.
        duration: of the recording in seconds, for the width of the times.
    """

    def __init__(
        self, width: int, fields: Sequence[str], speakers: Sequence[str], duration: float
    ) -> None:
        self._ends = width >= _ENDS_FROM
        self._sure = width >= _PROBABILITIES_FROM
        # Whether anybody speaks is seen from the words; alone it is all that there is to see.
        shown = [name for name in fields if name != "SpeechActivity" or len(fields) == 1]
        self._labels = [name for name in shown if name != "Transcript"]
        self._words = "Transcript" in shown
        longest = max((cell_len(visible_line(name)) for name in speakers), default=0)
        self._speaker = max(len("speaker"), min(longest, _LONGEST_SPEAKER, width // 4))
        self._time = len(self._times(duration, duration))
        taken = self._time + self._speaker + 2 * _GAP
        columns = sum(_BESIDE[name] + _GAP for name in self._labels)
        self._beside = width - taken - columns >= (_TRANSCRIPT_BESIDE if self._words else 0)
        self._text = max(8, width - taken - (columns if self._beside else 0))

    def begin(self, audio: AudioInfo, model: str, console: Console) -> None:
        """The lines above the turns: the recording, and the names of the columns."""
        facts = [
            *([clock(audio.duration)] if audio.duration else []),
            f"{audio.sample_rate} Hz",
            f"{audio.channels} channel{'s' if audio.channels != 1 else ''}",
            *([audio.codec] if audio.codec else []),
            f"model {visible_line(model)}",
        ]
        name = Text(visible_line(audio.path or ""), style="bold", overflow="fold")
        console.print(name)
        console.print(Text(visible_line(", ".join(facts)), style="dim"))
        names = ["time", "speaker"]
        if self._beside:
            names += [*(["Transcript"] if self._words else []), *self._labels]
        else:
            # One heading for words and labels, which stand beneath each other.
            names.append("Transcript" if self._words else "labels")
        self._print([Text(name, style="bold") for name in names], console)

    def rows(self, turns: Sequence[Turn], console: Console) -> None:
        """A row for each turn."""
        for turn in turns:
            self._row(turn, console)

    def _row(self, turn: Turn, console: Console) -> None:
        cells = [
            Text(self._times(turn.start, turn.end), style="dim"),
            Text(visible_line(turn.speaker), style="cyan"),
        ]
        if self._beside:
            cells += [_said(turn)] if self._words else []
            cells += [self._label(name, turn) or _without(name, turn) for name in self._labels]
        else:
            parts = [_said(turn)] if self._words else []
            found = [self._label(name, turn) for name in self._labels]
            labels = [label for label in found if label is not None]
            if labels:
                parts.append(Text(", ").join(labels))
            cells.append(Text("\n").join(parts))
        self._print(cells, console)

    def _label(self, field: str, turn: Turn) -> Text | None:
        value = turn.meta.value(field)
        if field == "SpeechActivity":
            return None if value is None else Text("speech" if value else "no speech")
        if value is None:
            return None
        sure = turn.confidence.get(field) if self._sure else None
        text = Text(visible_line(str(value)), style="" if self._beside else "dim")
        return text if sure is None else text.append(f" {sure:.0%}", style="dim")

    def _times(self, start: float, end: float) -> str:
        return f"{clock(start, 1)} - {clock(end, 1)}" if self._ends else clock(start, 1)

    def _print(self, cells: Sequence[Text], console: Console) -> None:
        grid = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
        grid.add_column(width=self._time, no_wrap=True, justify="right")
        grid.add_column(width=self._speaker, overflow="fold")
        if self._words or not self._beside:
            grid.add_column(width=self._text, overflow="fold")
        if self._beside:
            for name in self._labels:
                grid.add_column(width=_BESIDE[name], overflow="fold")
        grid.add_row(*cells)
        console.print(grid)

    def summary(self, report: CallReport, console: Console) -> None:
        """What rules found; who talked how much, who interrupted, and how it sounded."""
        for alert in report.alerts or []:
            console.print(_alert(alert))
        console.print(Text(visible_line(summary_line(report)), style="bold"))
        for line in field_lines(report):
            console.print(Text(visible_line(line)))


def _alert(alert: Alert) -> Text:
    """`alert 0:12.0 dead air: 21.3 s of silence`."""
    from speechmeta.writers.alert_text import found_by

    text = Text("alert ", style="yellow")
    text.append(f"{clock(alert.start, 1)} ", style="dim")
    text.append(visible_line(alert.rule), style="bold")
    who = f", {visible_line(alert.speaker)}" if alert.speaker else ""
    return text.append(f"{who}: {visible_line(found_by(alert.model_dump()))}")


def summary_line(report: CallReport) -> str:
    """`agent 60 % of the talk, customer 40 %; 1 interruption; Neutral 80 %, Sad 20 %`."""
    if not report.turns:
        return "no speech was found"
    talk = sum(speaker.talk_seconds for speaker in report.speakers)
    parts = []
    if talk > 0:
        speakers = [f"{s.speaker} {s.talk_seconds / talk:.0%}" for s in report.speakers]
        parts.append(f"talk: {', '.join(speakers)}")
    count = len(report.conversation.interruptions)
    parts.append(f"{count or 'no'} interruption{'' if count == 1 else 's'}")
    if emotions := _emotions(report.speakers):
        parts.append(f"emotion: {', '.join(f'{name} {s:.0%}' for name, s in emotions)}")
    if report.alerts is not None:
        parts.append(f"{len(report.alerts) or 'no'} alert{'' if len(report.alerts) == 1 else 's'}")
    if report.redactions:
        parts.append(f"{len(report.redactions)} redacted")
    return "; ".join(parts)


def field_lines(report: CallReport) -> Iterator[str]:
    """`promises: [...] (turns 3, 7)` for each call field."""
    for form in (report.call_fields or {}).values():
        for name, value in (form.value or {}).items():
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            cited = form.evidence.get(name, [])
            numbers = ", ".join(map(str, cited))
            turns = f" (turn{'s' if len(cited) > 1 else ''} {numbers})" if cited else ""
            yield f"{name}: {shown}{turns}"
        if form.flags:
            yield f"[{', '.join(form.flags)}]"


def _emotions(speakers: Sequence[SpeakerSummary]) -> list[tuple[str, float]]:
    """Shares of the emotions over all speakers, weighted by their talk; those from 1 % on."""
    sums: dict[str, float] = {}
    for speaker in speakers:
        for name, share in speaker.emotion.items():
            sums[name] = sums.get(name, 0.0) + share * speaker.talk_seconds
    total = sum(sums.values())
    shares = [(name, value / total) for name, value in sums.items()] if total > 0 else []
    return sorted((item for item in shares if item[1] >= 0.01), key=lambda item: -item[1])


def _without(field: str, turn: Turn) -> Text:
    """What stands for a label that the turn has not: nothing where it was not asked for."""
    return Text("-" if field in turn.meta.fields else "", style="dim")


def _said(turn: Turn) -> Text:
    if "Transcript" not in turn.meta.fields:
        text = Text("(no transcript)", style="dim")
    elif turn.meta.speech_activity is False:
        text = Text("(no speech)", style="dim")
    elif turn.meta.transcript:
        text = Text(visible(turn.meta.transcript))
    else:
        text = Text("(no words)", style="dim")
    marks = [*turn.flags, "overlapped"] if turn.overlapped else turn.flags
    if marks:
        text.append(f" [{', '.join(visible_line(mark) for mark in marks)}]", style="yellow")
    return text


def clock(seconds: float, decimals: int = 0) -> str:
    """`m:ss`, or `h:mm:ss` from an hour on; with tenths where asked."""
    minutes, rest = divmod(round(seconds, decimals), 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{rest:0{3 + decimals if decimals else 2}.{decimals}f}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"
