"""The timeline of the HTML report: one lane a speaker, its turns over the waveform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speechmeta.schema import LABEL_FIELDS, Peaks
from speechmeta.writers.html_parts import clock, emotion_colours, percent, plural, turn_colour
from speechmeta.writers.markup import Markup, el

Lane = tuple[str, int | None]

_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)


def timeline(data: dict[str, Any], lanes: Sequence[Lane], peaks: Peaks | None) -> Markup:
    """The lanes with their names, a time axis, and marks where somebody interrupts.

    Turns are buttons placed in percent of the duration, so the browser can stretch
    the lanes; each carries its row's id and the text of its tooltip as data.
    """
    duration = max(0.001, data["audio"]["duration"], *(turn["end"] for turn in data["turns"]))
    return el(
        "div",
        {"class": "timeline"},
        el("div", {"class": "names"}, *(_name(data, lane) for lane in lanes)),
        el(
            "div",
            {"class": "scroll"},
            el(
                "div",
                {"class": "canvas", "data-duration": f"{duration:.3f}"},
                el(
                    "div",
                    {"class": "lanes"},
                    *(_lane(data, lane, peaks, duration) for lane in lanes),
                ),
                el("div", {"class": "axis", "aria-hidden": "true"}, *_ticks(duration)),
            ),
        ),
    )


def _belongs(turn: dict[str, Any], lane: Lane) -> bool:
    return turn["speaker"] == lane[0] and lane[1] in (None, turn["channel"])


def _name(data: dict[str, Any], lane: Lane) -> Markup:
    count = sum(_belongs(turn, lane) for turn in data["turns"])
    channel = "" if lane[1] is None else f"channel {lane[1]}, "
    return el(
        "div",
        {"class": "name"},
        el("b", {"title": lane[0]}, lane[0]),
        el("span", None, f"{channel}{plural(count, 'turn')}"),
    )


def _lane(data: dict[str, Any], lane: Lane, peaks: Peaks | None, duration: float) -> Markup:
    colours = emotion_colours(data)
    own = [(number, turn) for number, turn in enumerate(data["turns"]) if _belongs(turn, lane)]
    tinted = [(turn["start"], turn["end"], turn_colour(turn, colours)) for _, turn in own]
    marks = [
        el(
            "span",
            {
                "class": "mark",
                "style": f"left:{100 * item['at'] / duration:.3f}%",
                "title": f"{lane[0]} interrupts",
            },
        )
        for item in data["conversation"]["interruptions"]
        if item["by"] == lane[0]
    ]
    return el(
        "div",
        {"class": "lane", "data-speaker": lane[0]},
        _waveform(peaks, lane[1] or 0, duration, tinted),
        *(_turn(number, turn, turn_colour(turn, colours), duration) for number, turn in own),
        *marks,
    )


def _turn(number: int, turn: dict[str, Any], colour: str, duration: float) -> Markup:
    silent = turn.get("SpeechActivity") is False
    left = 100 * turn["start"] / duration
    width = 100 * (turn["end"] - turn["start"]) / duration
    tip = hover_text(turn)
    return el(
        "button",
        {
            "type": "button",
            "class": "turn silent" if silent else "turn",
            "style": f"--c:{colour};left:{left:.3f}%;width:{width:.3f}%",
            "data-row": f"row-{number}",
            "data-tip": tip,
            "aria-label": " ".join(tip.split()),
        },
    )


def hover_text(turn: dict[str, Any]) -> str:
    """What the pointer shows over a turn: time, speaker, labels with confidence, words."""
    confidence = turn.get("confidence", {})
    lines = [f"{clock(turn['start'], 1)} \N{EN DASH} {clock(turn['end'], 1)}  {turn['speaker']}"]
    labels = []
    for name in LABEL_FIELDS:
        if turn.get(name):
            sure = f" {percent(confidence[name])}" if name in confidence else ""
            labels.append(f"{turn[name]}{sure}")
    if turn.get("SpeechActivity") is False:
        labels.append("no speech")
    if labels:
        lines.append(", ".join(labels))
    if turn.get("Transcript"):
        lines.append(turn["Transcript"])
    return "\n".join(lines)


def _waveform(
    peaks: Peaks | None, channel: int, duration: float, tinted: list[tuple[float, float, str]]
) -> Markup | None:
    if peaks is None or channel >= len(peaks.channels):
        return None
    values = peaks.channels[channel]
    # The outline covers the decoded audio, the lane the report's duration.
    scale = len(values) / (peaks.duration or duration)
    width = duration * scale
    parts = [el("path", {"class": "wave", "d": outline(values, 0, len(values))})]
    for start, end, colour in tinted:
        first = min(int(start * scale), len(values) - 1)
        last = min(max(round(end * scale), first + 1), len(values))
        parts.append(el("path", {"fill": colour, "d": outline(values, first, last)}))
    return el(
        "svg",
        {
            "viewBox": f"0 0 {width:.2f} 100",
            "preserveAspectRatio": "none",
            "aria-hidden": "true",
        },
        *parts,
    )


def outline(values: Sequence[int], first: int, last: int) -> str:
    """SVG path around the bins [first, last), mirrored at height 50; one bin is one unit wide."""
    heights = [max(value // 2, 1) for value in values[first:last]]
    upper = "".join(f"V{50 - height}h1" for height in heights)
    lower = "".join(f"V{50 + height}h-1" for height in reversed(heights))
    return f"M{first} 50{upper}{lower}Z"


def _ticks(duration: float) -> list[Markup]:
    step = next((tick for tick in _TICKS if duration / tick <= 12), 14_400)
    return [
        el("span", {"class": "tick", "style": f"left:{100 * at / duration:.3f}%"}, clock(at))
        for at in range(0, max(1, int(duration) + 1), step)
        if at < duration
    ]
