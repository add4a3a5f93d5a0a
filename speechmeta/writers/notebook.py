"""A report in Python: tables for pandas, a summary for notebooks, a drawing, and files.

`CallReport`'s methods of these names lead here; the schema itself knows nothing of files.
"""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

from speechmeta.errors import UsageError, require_extra
from speechmeta.schema import CallReport, CallTables, Drawing
from speechmeta.visible import visible_line
from speechmeta.writers import get_writer
from speechmeta.writers.html_view import NO_EMOTION, clock, emotions_of, lanes_of, percent
from speechmeta.writers.structured import document
from speechmeta.writers.tabular import COLUMNS, SPEAKER_COLUMNS, rows, speaker_rows

_SHOWN_TURNS = 8
_WIDTH, _LANE, _LEFT = 900, 34, 110


def save(report: CallReport, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """See `CallReport.save`."""
    ending = Path(path).suffix
    if not ending:
        raise UsageError(
            f"{path} has no ending that names a format", "such as .json, .csv, .srt or .html"
        )
    get_writer(ending).write(report, path, overwrite=overwrite)


def to_pandas(report: CallReport) -> CallTables:
    """See `CallReport.to_pandas`."""
    require_extra("pandas", "pandas", "to_pandas()")
    import pandas

    data = document(report)
    turns = rows(data)
    words = [
        {"turn": row["turn"], "speaker": row["speaker"], **word}
        for row in turns
        for word in row["words"] or []
    ]
    names = [name for name in COLUMNS if name != "words"]
    return CallTables(
        turns=pandas.DataFrame(turns, columns=names),
        words=pandas.DataFrame(
            words, columns=["turn", "speaker", "word", "start", "end", "probability"]
        ),
        speakers=pandas.DataFrame(speaker_rows(data), columns=list(SPEAKER_COLUMNS)),
    )


def short_text(report: CallReport) -> str:
    """`CallReport('call.wav', 0:24, 8 turns, 2 speakers)`."""
    name = os.path.basename(report.audio.path or "")
    turns, speakers = len(report.turns), len(report.speakers)
    return (
        f"CallReport({visible_line(name)!r}, {clock(report.audio.duration)}, "
        f"{turns} turn{'' if turns == 1 else 's'}, "
        f"{speakers} speaker{'' if speakers == 1 else 's'})"
    )


def summary_html(report: CallReport) -> str:
    """The call in a few lines: the drawing, the speakers, the first turns. All text is escaped."""
    text = _escaped
    head = f"<p><b>{text(os.path.basename(report.audio.path or 'Call'))}</b>, "
    head += f"{clock(report.audio.duration)}, {len(report.turns)} turns</p>"
    talk = sum(speaker.talk_seconds for speaker in report.speakers) or 1.0
    lines = [
        _row(
            "td",
            speaker.speaker,
            percent(speaker.talk_seconds / talk),
            *(
                "" if label is None or label.value is None else label.value
                for label in (speaker.gender, speaker.age, speaker.accent)
            ),
            max(speaker.emotion, key=speaker.emotion.__getitem__) if speaker.emotion else "",
        )
        for speaker in report.speakers
    ]
    speakers = _row("th", "speaker", "talk", "gender", "age", "accent", "emotion") + "".join(lines)
    shown = [
        _row("td", clock(turn.start, 1), turn.speaker, turn.meta.transcript or "")
        for turn in report.turns[:_SHOWN_TURNS]
    ]
    more = len(report.turns) - len(shown)
    if more > 0:
        shown.append(_row("td", "", "", f"and {more} more turns"))
    return (
        f"{head}{plot(report).svg}<table>{speakers}</table>"
        f"<table>{_row('th', 'time', 'speaker', 'said')}{''.join(shown)}</table>"
    )


def _row(cell: str, *texts: str) -> str:
    cells = "".join(f'<{cell} style="text-align:left">{_escaped(text)}</{cell}>' for text in texts)
    return f"<tr>{cells}</tr>"


def plot(report: CallReport) -> Drawing:
    """See `CallReport.plot`."""
    data = document(report)
    emotions = emotions_of(data)
    lanes = lanes_of(data)
    duration = max(0.001, data["audio"]["duration"])
    height = _LANE * max(1, len(lanes)) + 20
    scale = (_WIDTH - _LEFT) / duration
    parts = []
    for number, (speaker, channel) in enumerate(lanes):
        top = number * _LANE
        parts.append(f'<text x="0" y="{top + 20}" font-size="12">{_escaped(speaker[:16])}</text>')
        parts.append(_rectangle(_LEFT, top + 3, _WIDTH - _LEFT, _LANE - 6, "#8884", ""))
        for turn in data["turns"]:
            if turn["speaker"] != speaker or channel not in (None, turn["channel"]):
                continue
            emotion = emotions.get(turn.get("Emotion") or "")
            colour, name = (emotion["colour"], emotion["name"]) if emotion else (NO_EMOTION, "")
            left = _LEFT + turn["start"] * scale
            width = max(1.0, (turn["end"] - turn["start"]) * scale)
            told = f"{clock(turn['start'], 1)} {name} {turn.get('Transcript') or ''}"
            parts.append(_rectangle(left, top + 3, width, _LANE - 6, colour, told))
            if emotion and width > 10:
                parts.append(
                    f'<text x="{left + 3:.1f}" y="{top + 20}" font-size="10" fill="#fff">'
                    f"{_escaped(emotion['letter'])}</text>"
                )
    end = f'<text x="{_WIDTH}" y="{height - 6}" font-size="10" text-anchor="end">'
    parts.append(f"{end}{clock(duration)}</text>")
    label = _escaped(short_text(report))
    return Drawing(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" role="img" aria-label="{label}" fill="currentColor" '
        f'font-family="sans-serif">{"".join(parts)}</svg>'
    )


def _rectangle(
    left: float, top: float, width: float, height: float, colour: str, title: str
) -> str:
    inner = f"<title>{_escaped(title)}</title>" if title else ""
    return (
        f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{height}" rx="2" '
        f'fill="{colour}">{inner}</rect>'
    )


def _escaped(text: Any) -> str:
    return html.escape(visible_line(str(text)))


__all__ = ["plot", "save", "short_text", "summary_html", "to_pandas"]
