"""One page for a folder of calls: a row a call, sortable, with a link to the call's own page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from speechmeta.version import __version__
from speechmeta.writers.html import render
from speechmeta.writers.html_view import NO_EMOTION, clock, emotions_of, percent, stack

SPARK_BINS = 48
"""Stretches of equal length into which a call's drawing is divided."""


def index_page(calls: Iterable[tuple[str, str, dict[str, Any]]], title: str) -> str:
    """The page.

    Args:
        calls: of each its name, the address of its own page ("" for none), and its document or
            error record.
    """
    rows, failed = [], []
    for name, address, data in calls:
        if "error" in data:
            failed.append({"name": name, **data["error"]})
        else:
            rows.append(_row(name, address, data))
    seconds = sum(row["seconds"] for row in rows)
    legend = {item["name"]: item for row in rows for item in row["emotions"]}
    values = {
        "title": title,
        "rows": rows,
        "failed": failed,
        "total": clock(seconds),
        "legend": list(legend.values()),
        "version": __version__,
    }
    return render("index.html", values, script="index.js")


def _row(name: str, address: str, data: dict[str, Any]) -> dict[str, Any]:
    measures, speakers = data["conversation"], data["speakers"]
    duration = data["audio"]["duration"]
    emotions = emotions_of(data)
    talk = sum(speaker["talk_seconds"] for speaker in speakers)
    pooled: dict[str, float] = {}
    for speaker in speakers:
        for emotion, share in (speaker.get("Emotion") or {}).items():
            pooled[emotion] = pooled.get(emotion, 0.0) + share * speaker["talk_seconds"]
    parts = stack(pooled, emotions)
    said = " ".join(turn.get("Transcript") or "" for turn in data["turns"])
    return {
        "name": name,
        "address": address,
        "seconds": duration,
        "duration": clock(duration),
        "turns": len(data["turns"]),
        "talk": percent(measures["talk_seconds"] / (duration or 1.0)),
        "talk_share": measures["talk_seconds"] / (duration or 1.0),
        "speakers": ", ".join(
            f"{speaker['speaker']} {percent(speaker['talk_seconds'] / (talk or 1.0))}"
            for speaker in speakers
        ),
        "interruptions": len(measures["interruptions"]),
        "emotions": parts,
        "unrest": sum(pooled.get(name, 0.0) for name in ("Anger", "Frustrated")) / (talk or 1.0),
        "spark": sparkline(data),
        "warnings": len(data["warnings"]),
        "alerts": len(data.get("alerts") or []),
        "ruled": data.get("alerts") is not None,
        "text": said.lower(),
    }


def sparkline(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The call in small: for each stretch of time and side how much of it is talk, and in which
    emotion's colour. The first speaker is drawn upwards, all others downwards."""
    duration = max(0.001, data["audio"]["duration"])
    emotions = emotions_of(data)
    first = data["speakers"][0]["speaker"] if data["speakers"] else None
    filled: dict[tuple[int, bool], dict[str, float]] = {}
    for turn in data["turns"]:
        emotion = emotions.get(turn.get("Emotion") or "")
        colour = emotion["colour"] if emotion else NO_EMOTION
        low, high = (
            turn["start"] / duration * SPARK_BINS,
            min(turn["end"] / duration * SPARK_BINS, float(SPARK_BINS)),
        )
        place = int(low)
        while place < high:
            part = min(high, place + 1) - max(low, place)
            table = filled.setdefault((place, turn["speaker"] == first), {})
            table[colour] = table.get(colour, 0.0) + part
            place += 1
    bars = []
    for (place, up), table in sorted(filled.items()):
        height = round(min(1.0, sum(table.values())) * 11, 1)
        bars.append(
            {
                "x": place,
                "y": 12 - height if up else 12,
                "height": height,
                "colour": max(table, key=table.__getitem__),
            }
        )
    return bars


__all__ = ["SPARK_BINS", "index_page", "sparkline"]
