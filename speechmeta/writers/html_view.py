"""What the report's page shows, as plain values: the template only places them."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from speechmeta.schema import DEFAULT_LABEL_SETS, LABEL_FIELDS, Peaks
from speechmeta.writers.alert_text import found_by

EMOTION_COLOURS = {
    "Neutral": "#7b8ba5",
    "Happy": "#e2a308",
    "Sad": "#2f7fe0",
    "Anger": "#dc3545",
    "Frustrated": "#9b51d6",
}
"""Colours that stand on a light and on a dark page, and apart for the colour-blind."""
OTHER_COLOURS = ("#0f9d8a", "#b5651d", "#d6479b", "#5b8c2a", "#5560d0")
"""For the emotions that a checkpoint of its own label set brings."""
NO_EMOTION = "#a9b1bd"

OUTLINE_BINS = 1200
"""Values a channel of the outline that is drawn without a script, and printed."""

_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
_SHOWN_INTERRUPTIONS = 12

_KNOWN_MEASURES = {
    "talk_seconds",
    "silence_seconds",
    "overlap_seconds",
    "interruptions",
    "emotion_by_quarter",
    "longest_monologue",
}
"""Measures that have a place of their own on the page."""
_KNOWN_OF_SPEAKER = {
    "speaker",
    "channel",
    "talk_seconds",
    "talk_share",
    "turns",
    "emotion_by_quarter",
    *LABEL_FIELDS,
}

Lane = tuple[str, int | None]
Emotions = dict[str, dict[str, str]]
"""By emotion its `name`, `colour` and `letter`."""


def view(data: dict[str, Any], peaks: Peaks | None) -> dict[str, Any]:
    """All that the template needs.

    Args:
        data: the document of `structured.document`.
        peaks: the waveform's outline; without it the lanes show turns only.
    """
    emotions = emotions_of(data)
    turns = data["turns"]
    duration = max(0.001, data["audio"]["duration"], *(turn["end"] for turn in turns))
    rows = [turn_view(number, turn, emotions, duration) for number, turn in enumerate(turns)]
    shown = {turn.get("Emotion") for turn in turns}
    return {
        "audio": data["audio"],
        "facts": _recording_facts(data["audio"]),
        "tiles": _tiles(data),
        "legend": [item for name, item in emotions.items() if name in shown],
        "some_without_emotion": None in shown and len(shown) > 1,
        "no_emotion": NO_EMOTION,
        "duration": duration,
        "lanes": [_lane(data, lane, rows, emotions, peaks, duration) for lane in lanes_of(data)],
        "ticks": _ticks(duration),
        "speakers": [_speaker(data, speaker, emotions) for speaker in data["speakers"]],
        "conversation": conversation_view(data, emotions),
        "turns": rows,
        "filters": _filters(data),
        "problems": _problems(data),
        "call_fields": _call_fields(data, rows),
        "alerts": _alerts(data),
        "policy": _policy(data),
        "model": data["model"],
        "coverage": data["coverage"],
        "schema_version": data["schema_version"],
    }


def emotions_of(data: dict[str, Any]) -> Emotions:
    """The colour and the letter of every emotion that the document names."""
    names: dict[str, None] = dict.fromkeys(DEFAULT_LABEL_SETS["Emotion"])
    for turn in data["turns"]:
        if turn.get("Emotion"):
            names[turn["Emotion"]] = None
    for shares in (*(s.get("Emotion") or {} for s in data["speakers"]), *_quarters(data)):
        names.update(dict.fromkeys(shares))
    others = [name for name in names if name not in EMOTION_COLOURS]
    more = {name: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, name in enumerate(others)}
    letters = letters_of(list(names))
    return {
        name: {
            "name": name,
            "colour": EMOTION_COLOURS.get(name) or more[name],
            "letter": letters[name],
        }
        for name in names
    }


def letters_of(names: Sequence[str]) -> dict[str, str]:
    """For each name its shortest beginning that no name before it has, for who sees no colours."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        beginnings = [name[:n].capitalize() for n in range(1, len(name) + 1)]
        numbered = (f"{name[:1]}{n}" for n in itertools.count(2))
        free = (text for text in itertools.chain(beginnings, numbered) if text not in taken)
        found[name] = next(free)
        taken.add(found[name])
    return found


def lanes_of(data: dict[str, Any]) -> list[Lane]:
    """The (speaker, channel) pairs of the call, in the order of its summaries."""
    lanes: dict[Lane, None] = {}
    for speaker in data["speakers"]:
        lanes[speaker["speaker"], speaker["channel"]] = None
    for turn in data["turns"]:
        if not any(name == turn["speaker"] and at in (None, turn["channel"]) for name, at in lanes):
            lanes[turn["speaker"], turn["channel"]] = None
    return list(lanes)


def turn_view(
    number: int, turn: dict[str, Any], emotions: Emotions, duration: float
) -> dict[str, Any]:
    """One turn: its place on the timeline in percent, its texts, and what it is filtered by."""
    silent = turn.get("SpeechActivity") is False
    emotion = emotions.get(turn.get("Emotion") or "")
    confidence = turn.get("confidence", {})
    labels = [
        {"field": name, "value": turn[name], "sure": _sure(confidence.get(name))}
        for name in LABEL_FIELDS
        if turn.get(name)
    ]
    span = f"{clock(turn['start'], 1)} \N{EN DASH} {clock(turn['end'], 1)}"
    said = turn.get("Transcript") or ""
    texts = [f"{item['value']} {item['sure']}".rstrip() for item in labels]
    if silent:
        texts.append("no speech")
    lines = [f"{span}  {turn['speaker']}", ", ".join(texts), said]
    return {
        "number": number,
        "start": turn["start"],
        "end": turn["end"],
        "at": clock(turn["start"], 1),
        "span": span,
        "seconds": f"{turn['end'] - turn['start']:.1f} s",
        "left": f"{100 * turn['start'] / duration:.3f}",
        "width": f"{100 * (turn['end'] - turn['start']) / duration:.3f}",
        "speaker": turn["speaker"],
        "channel": turn["channel"],
        "silent": silent,
        "asked_for_words": "Transcript" in turn,
        "said": said,
        "words": _words(turn, said),
        "labels": labels,
        "emotion": emotion,
        "colour": emotion["colour"] if emotion else NO_EMOTION,
        "loudness": turn.get("loudness_db"),
        "confidence": turn.get("transcript_confidence"),
        "flags": _marks(turn),
        "tip": "\n".join(line for line in lines if line),
        "values": [turn[name] for name in LABEL_FIELDS if turn.get(name)],
    }


def _marks(turn: dict[str, Any]) -> list[str]:
    """Its flags in words, and whether another talks at the same time."""
    flags = [flag.replace("_", " ") for flag in turn.get("flags", [])]
    return [*flags, "overlapped"] if turn.get("overlapped") else flags


def _words(turn: dict[str, Any], said: str) -> list[dict[str, Any]]:
    """The words with their times, where together they are what was said."""
    words: list[dict[str, Any]] = turn.get("words") or []
    joined = "".join("".join(word["word"].split()) for word in words)
    return words if joined and joined == "".join(said.split()) else []


def _sure(probability: float | None) -> str:
    return "" if probability is None else percent(probability)


def _filters(data: dict[str, Any]) -> dict[str, Any]:
    """What the turns can be filtered by: speakers, and the values of each label that occur."""
    found = {
        name: sorted({turn[name] for turn in data["turns"] if turn.get(name)})
        for name in LABEL_FIELDS
    }
    flags = sorted({mark for turn in data["turns"] for mark in _marks(turn)})
    return {
        "speakers": list(dict.fromkeys(turn["speaker"] for turn in data["turns"])),
        "labels": [(name, values) for name, values in found.items() if values],
        "flags": flags,
    }


def _problems(data: dict[str, Any]) -> list[str]:
    return [*map(_failed, data.get("failures") or []), *data["warnings"]]


def _failed(failure: dict[str, Any]) -> str:
    turns = ", ".join(map(str, failure.get("turns") or []))
    return f"no {failure['part']}{f' of turns {turns}' if turns else ''}: {failure['message']}"


def _call_fields(data: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a text model filled in, field by field, with the turns that it named for it."""
    found = []
    for name, form in (data.get("call_fields") or {}).items():
        fields = [
            {
                "name": field,
                "value": value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
                "turns": [rows[n] for n in form["evidence"].get(field, []) if n < len(rows)],
            }
            for field, value in (form["value"] or {}).items()
        ]
        found.append({"name": name, "fields": fields})
    return found


def _alerts(data: dict[str, Any]) -> list[dict[str, Any]] | None:
    """What rules found; None where none were given."""
    if data.get("alerts") is None:
        return None
    return [
        {
            "rule": alert["rule"],
            "span": f"{clock(alert['start'], 1)} \N{EN DASH} {clock(alert['end'], 1)}",
            "turn": alert.get("turn"),
            "speaker": alert.get("speaker", ""),
            "found": found_by(alert),
        }
        for alert in data["alerts"]
    ]


def _policy(data: dict[str, Any]) -> dict[str, Any] | None:
    """Which fields were computed of whom, and why not others; None where all were of all."""
    policy = data.get("policy")
    if not policy or not any(speaker["left_out"] for speaker in policy["speakers"]):
        return None
    return {
        "name": policy["name"],
        "speakers": [
            {
                "speaker": speaker["speaker"],
                "computed": ", ".join(speaker["fields"]) or "nothing",
                "left_out": left_out(speaker["left_out"]),
            }
            for speaker in policy["speakers"]
        ],
    }


def left_out(reasons: dict[str, str]) -> str:
    """`Gender, Age: not asked for; Emotion: not allowed by the policy`."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def _recording_facts(audio: dict[str, Any]) -> list[str]:
    return [
        clock(audio["duration"]),
        plural(audio["channels"], "channel"),
        f"{audio['sample_rate'] / 1000:g} kHz",
        *([audio["codec"]] if audio["codec"] else []),
    ]


def _tiles(data: dict[str, Any]) -> list[tuple[str, str]]:
    measures = data["conversation"]
    duration = data["audio"]["duration"] or 1.0
    return [
        (clock(data["audio"]["duration"]), "duration"),
        _counted(len(data["turns"]), "turn"),
        (percent(measures["talk_seconds"] / duration), "talk"),
        (percent(measures["silence_seconds"] / duration), "silence"),
        (f"{measures['overlap_seconds']:.1f} s", "overlap"),
        _counted(len(measures["interruptions"]), "interruption"),
    ]


def _belongs(turn: dict[str, Any], lane: Lane) -> bool:
    return turn["speaker"] == lane[0] and lane[1] in (None, turn["channel"])


def _lane(
    data: dict[str, Any],
    lane: Lane,
    rows: Sequence[dict[str, Any]],
    emotions: Emotions,
    peaks: Peaks | None,
    duration: float,
) -> dict[str, Any]:
    own = [row for row in rows if _belongs(row, lane)]
    channel = "" if lane[1] is None else f"channel {lane[1]}, "
    return {
        "speaker": lane[0],
        "about": f"{channel}{plural(len(own), 'turn')}",
        "turns": own,
        "marks": [
            f"{100 * item['at'] / duration:.3f}"
            for item in data["conversation"]["interruptions"]
            if item["by"] == lane[0]
        ],
        "wave": wave_view(peaks, lane[1] or 0, duration, own),
    }


def wave_view(
    peaks: Peaks | None, channel: int, duration: float, turns: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """A channel's outline: coarse as paths for who has no script, fine as bytes for who has.

    The paths are in units of one bin; `fine` is base64 of a byte a bin, 0 to 100.
    """
    if peaks is None or channel >= len(peaks.channels) or not peaks.channels[channel]:
        return None
    fine = peaks.channels[channel]
    values = reduced(fine, OUTLINE_BINS)
    # The outline covers the decoded audio, the lane the report's duration.
    scale = len(values) / (peaks.duration or duration)
    parts = []
    for turn in turns:
        first = min(int(turn["start"] * scale), len(values) - 1)
        last = min(max(round(turn["end"] * scale), first + 1), len(values))
        parts.append({"colour": turn["colour"], "path": outline(values, first, last)})
    return {
        "width": f"{duration * scale:.2f}",
        "path": outline(values, 0, len(values)),
        "parts": parts,
        "fine": base64.b64encode(bytes(fine)).decode("ascii") if len(fine) > len(values) else "",
        "seconds": f"{peaks.duration:.3f}",
    }


def reduced(values: Sequence[int], bins: int) -> list[int]:
    """At most so many values: the largest of each stretch."""
    count = len(values)
    if count <= bins:
        return list(values)
    edges = [i * count // bins for i in range(bins + 1)]
    return [max(values[a:b]) for a, b in itertools.pairwise(edges)]


def outline(values: Sequence[int], first: int, last: int) -> str:
    """SVG path around the bins [first, last), mirrored at height 50; one bin is one unit wide."""
    heights = [max(value // 2, 1) for value in values[first:last]]
    upper = "".join(f"V{50 - height}h1" for height in heights)
    lower = "".join(f"V{50 + height}h-1" for height in reversed(heights))
    return f"M{first} 50{upper}{lower}Z"


def _ticks(duration: float) -> list[tuple[str, str]]:
    step = next((tick for tick in _TICKS if duration / tick <= 12), 14_400)
    return [
        (f"{100 * at / duration:.3f}", clock(at))
        for at in range(0, max(1, int(duration) + 1), step)
        if at < duration
    ]


def _speaker(data: dict[str, Any], speaker: dict[str, Any], emotions: Emotions) -> dict[str, Any]:
    """Labels with their confidence, emotions, and the speaker's own measures."""
    total = sum(item["talk_seconds"] for item in data["speakers"]) or 1.0
    share = speaker.get("talk_share")
    facts = [
        ("Talk time", clock(speaker["talk_seconds"])),
        ("Share of talk", percent(speaker["talk_seconds"] / total if share is None else share)),
        ("Turns", str(speaker["turns"])),
    ]
    for name, value in speaker.items():
        if name not in _KNOWN_OF_SPEAKER:
            facts.extend(_facts(name, value))
    labels = [
        {
            "field": name,
            "value": speaker[name]["value"] or "not sure",
            "width": f"{100 * speaker[name]['confidence']:.1f}",
            "sure": percent(speaker[name]["confidence"]),
        }
        for name in LABEL_FIELDS
        if name != "Emotion" and speaker.get(name)
    ]
    shares = speaker.get("Emotion") or {}
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return {
        "name": speaker["speaker"],
        "channel": speaker["channel"],
        "labels": labels,
        "stack": stack(shares, emotions),
        "keys": [
            {**emotions[name], "share": percent(share)} for name, share in ordered if share >= 0.005
        ],
        "quarters": _quarter_stacks(speaker.get("emotion_by_quarter") or [], emotions),
        "facts": facts,
    }


def stack(shares: dict[str, float], emotions: Emotions) -> list[dict[str, str]]:
    """The parts of a bar, in the order of the emotions, so that bars compare."""
    total = sum(shares.values()) or 1.0
    return [
        {
            **emotions[name],
            "width": f"{100 * shares[name] / total:.2f}",
            "share": percent(shares[name] / total),
        }
        for name in emotions
        if shares.get(name)
    ]


def conversation_view(data: dict[str, Any], emotions: Emotions) -> dict[str, Any]:
    """The measures of the whole call; those that have no place of their own as pairs of words."""
    measures = data["conversation"]
    facts = [
        ("Somebody talks", clock(measures["talk_seconds"])),
        ("Nobody talks", clock(measures["silence_seconds"])),
        ("Several talk", f"{measures['overlap_seconds']:.1f} s"),
    ]
    monologue = measures.get("longest_monologue")
    if monologue:
        span = f"{clock(monologue['start'], 1)} \N{EN DASH} {clock(monologue['end'], 1)}"
        facts.append(("Longest monologue", f"{monologue['speaker']}, {span}"))
    for name, value in measures.items():
        if name not in _KNOWN_MEASURES:
            facts.extend(_facts(name, value))
    first = measures["interruptions"][:_SHOWN_INTERRUPTIONS]
    return {
        "facts": facts,
        "quarters": _quarter_stacks(_quarters(data), emotions),
        "interruptions": [
            {
                "start": item["at"],
                "at": clock(item["at"], 1),
                "who": f"by {item['by']}" + (f" of {item['of']}" if item.get("of") else ""),
            }
            for item in first
        ],
        "more_interruptions": len(measures["interruptions"]) - len(first),
    }


def _quarters(data: dict[str, Any]) -> list[dict[str, float]]:
    found: list[dict[str, float]] = data["conversation"].get("emotion_by_quarter") or []
    return found


def _quarter_stacks(
    quarters: Sequence[dict[str, float]], emotions: Emotions
) -> list[list[dict[str, str]]]:
    return [stack(shares, emotions) for shares in quarters] if any(quarters) else []


def _facts(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Any further measure as pairs of words; nested ones are named by their path."""
    if value is None or value == [] or value == {}:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _facts(f"{name} {key}", inner)
    elif isinstance(value, list):
        if all(isinstance(item, (int, float)) for item in value):
            yield _measure(name)[0], ", ".join(f"{item:g}" for item in value)
        elif all(isinstance(item, str) for item in value):
            yield _measure(name)[0], ", ".join(value)
        else:
            yield _measure(name)[0], str(len(value))
    elif isinstance(value, bool):
        yield _measure(name)[0], "yes" if value else "no"
    elif isinstance(value, (int, float)):
        words, unit = _measure(name)
        text = f"{value:.1f}" if isinstance(value, float) else str(value)
        yield words, f"{text} {unit}".rstrip()
    else:
        yield _measure(name)[0], str(value)


def _measure(name: str) -> tuple[str, str]:
    """`longest_monologue_seconds` as ("Longest monologue", "s")."""
    unit = ""
    for ending, short in (("_seconds", "s"), ("_db", "dBFS"), ("words_per_minute", "words/min")):
        if ending in name:
            name, unit = name.replace(ending, "speed" if short == "words/min" else ""), short
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:], unit


def clock(seconds: float, decimals: int = 0) -> str:
    """`M:SS` or `H:MM:SS`, with tenths where asked."""
    tick = 10**decimals
    whole, fraction = divmod(round(max(seconds, 0.0) * tick), tick)
    minutes, second = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"
    return f"{text}.{fraction:0{decimals}d}" if decimals else text


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _counted(count: int, noun: str) -> tuple[str, str]:
    number, word = plural(count, noun).split(" ", 1)
    return number, word


def percent(share: float) -> str:
    return f"{100 * share:.0f}%"
