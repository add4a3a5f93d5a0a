"""The parts of the HTML report beside the timeline: tiles, speakers, measures, transcript."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from speechmeta.schema import DEFAULT_LABEL_SETS, LABEL_FIELDS
from speechmeta.writers.markup import Markup, el, joined

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

KNOWN_MEASURES = {
    "talk_seconds",
    "silence_seconds",
    "overlap_seconds",
    "interruptions",
    "emotion_by_quarter",
    "longest_monologue",
}
"""Measures that have a place of their own on the page."""
KNOWN_OF_SPEAKER = {
    "speaker",
    "channel",
    "talk_seconds",
    "talk_share",
    "turns",
    "emotion_by_quarter",
    *LABEL_FIELDS,
}


def emotion_colours(data: dict[str, Any]) -> dict[str, str]:
    """The colour of every emotion that the document names."""
    names: dict[str, None] = dict.fromkeys(DEFAULT_LABEL_SETS["Emotion"])
    for turn in data["turns"]:
        if turn.get("Emotion"):
            names[turn["Emotion"]] = None
    for shares in (*(s.get("Emotion", {}) for s in data["speakers"]), *_quarters(data)):
        names.update(dict.fromkeys(shares))
    others = [name for name in names if name not in EMOTION_COLOURS]
    more = {name: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, name in enumerate(others)}
    return {name: EMOTION_COLOURS.get(name) or more[name] for name in names}


def lanes_of(data: dict[str, Any]) -> list[tuple[str, int | None]]:
    """The (speaker, channel) pairs of the call, in the order of its summaries."""
    lanes: dict[tuple[str, int | None], None] = {}
    for speaker in data["speakers"]:
        lanes[speaker["speaker"], speaker["channel"]] = None
    for turn in data["turns"]:
        if not any(name == turn["speaker"] and at in (None, turn["channel"]) for name, at in lanes):
            lanes[turn["speaker"], turn["channel"]] = None
    return list(lanes)


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


def legend(data: dict[str, Any]) -> Markup:
    """The colours of the emotions; those the call does not show are left out."""
    colours = emotion_colours(data)
    shown = {turn.get("Emotion") for turn in data["turns"]}
    keys = [_key(name, colours[name]) for name in colours if name in shown]
    if None in shown:
        keys.append(_key("no emotion given", NO_EMOTION))
    return el("div", {"class": "legend"}, *keys)


def _key(name: str, colour: str) -> Markup:
    return el("span", {"class": "key"}, el("i", {"class": "dot", "style": f"--c:{colour}"}), name)


def tiles(data: dict[str, Any]) -> Markup:
    measures = data["conversation"]
    duration = data["audio"]["duration"] or 1.0
    figures = (
        (clock(data["audio"]["duration"]), "duration"),
        _counted(len(data["turns"]), "turn"),
        (percent(measures["talk_seconds"] / duration), "talk"),
        (percent(measures["silence_seconds"] / duration), "silence"),
        (f"{measures['overlap_seconds']:.1f} s", "overlap"),
        _counted(len(measures["interruptions"]), "interruption"),
    )
    return el(
        "section",
        {"class": "tiles", "aria-label": "Summary"},
        *(
            el("div", {"class": "tile"}, el("b", None, figure), el("span", None, name))
            for figure, name in figures
        ),
    )


def speaker_card(data: dict[str, Any], speaker: dict[str, Any]) -> Markup:
    """Labels with their confidence, emotions, and the speaker's own measures."""
    total = sum(item["talk_seconds"] for item in data["speakers"]) or 1.0
    share = speaker.get("talk_share")
    facts = [
        ("Talk time", clock(speaker["talk_seconds"])),
        ("Share of talk", percent(speaker["talk_seconds"] / total if share is None else share)),
        ("Turns", str(speaker["turns"])),
    ]
    for name, value in speaker.items():
        if name not in KNOWN_OF_SPEAKER:
            facts.extend(_facts(name, value))
    labels = [
        _label(name, speaker[name]["value"], speaker[name]["confidence"])
        for name in LABEL_FIELDS
        if name != "Emotion" and speaker.get(name)
    ]
    emotions = speaker.get("Emotion") or {}
    channel = speaker["channel"]
    return el(
        "article",
        {"class": "card speaker", "data-speaker": speaker["speaker"]},
        el(
            "div",
            {"class": "head"},
            el("h2", None, speaker["speaker"]),
            el("span", {"class": "legend"}, None if channel is None else f"channel {channel}"),
        ),
        el("div", {"class": "block"}, *labels) if labels else None,
        _emotion_block(emotions, emotion_colours(data)) if emotions else None,
        _quarter_block(speaker.get("emotion_by_quarter") or [], emotion_colours(data)),
        el("div", {"class": "block"}, _definitions(facts)),
    )


def _label(field: str, value: str | None, confidence: float) -> Markup:
    meter = el(
        "span",
        {"class": "meter", "title": f"probability {confidence:.2f}"},
        el("i", {"style": f"width:{100 * confidence:.1f}%"}),
    )
    return el(
        "div",
        {"class": "label"},
        el("span", {"class": "field"}, field),
        el("b", None, value or "not sure"),
        meter,
        el("span", {"class": "sure"}, percent(confidence)),
    )


def _emotion_block(shares: dict[str, float], colours: dict[str, str]) -> Markup:
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    keys = [
        _key(f"{name} {percent(share)}", colours[name]) for name, share in ordered if share >= 0.005
    ]
    return el(
        "div",
        {"class": "block"},
        el("h3", None, "Emotion"),
        stack(shares, colours),
        el("div", {"class": "legend"}, *keys),
    )


def stack(shares: dict[str, float], colours: dict[str, str]) -> Markup:
    """One bar cut into the shares, in the order of the colours, so that bars compare."""
    total = sum(shares.values()) or 1.0
    parts = [
        el(
            "i",
            {
                "style": f"--c:{colours[name]};width:{100 * shares[name] / total:.2f}%",
                "title": f"{name} {percent(shares[name] / total)}",
            },
        )
        for name in colours
        if shares.get(name)
    ]
    return el("div", {"class": "stack"}, *parts)


def conversation_card(data: dict[str, Any]) -> Markup:
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
        if name not in KNOWN_MEASURES:
            facts.extend(_facts(name, value))
    first = measures["interruptions"][:12]
    listed = [(f"at {clock(item['at'], 1)}", _interruption(item)) for item in first]
    more = len(measures["interruptions"]) - len(listed)
    if more > 0:
        listed.append((f"and {more} more", ""))
    return el(
        "article",
        {"class": "card"},
        el("div", {"class": "head"}, el("h2", None, "Conversation")),
        el("div", {"class": "block"}, _definitions(facts)),
        _quarter_block(_quarters(data), emotion_colours(data)),
        el("div", {"class": "block"}, el("h3", None, "Interruptions"), _definitions(listed))
        if listed
        else None,
    )


def _interruption(item: dict[str, Any]) -> str:
    of = f" of {item['of']}" if item.get("of") else ""
    return f"by {item['by']}{of}"


def _quarters(data: dict[str, Any]) -> list[dict[str, float]]:
    found: list[dict[str, float]] = data["conversation"].get("emotion_by_quarter") or []
    return found


def _quarter_block(quarters: list[dict[str, float]], colours: dict[str, str]) -> Markup | None:
    if not any(quarters):
        return None
    bars = [
        el("div", {"class": "quarter"}, f"Q{number}", stack(shares, colours))
        for number, shares in enumerate(quarters, start=1)
    ]
    return el("div", {"class": "block"}, el("h3", None, "Emotion by quarter"), *bars)


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


def _definitions(facts: list[tuple[str, str]]) -> Markup:
    return el(
        "dl", None, *(joined(el("dt", None, name), el("dd", None, text)) for name, text in facts)
    )


def turn_colour(turn: dict[str, Any], colours: dict[str, str]) -> str:
    emotion = turn.get("Emotion")
    return colours[emotion] if emotion else NO_EMOTION


def transcript(data: dict[str, Any]) -> Markup:
    """The table of turns; each row's id ends in the turn's number."""
    if not data["turns"]:
        return el("p", {"class": "sub"}, "No speech was found.")
    colours = emotion_colours(data)
    head = el(
        "thead",
        None,
        el("tr", None, *(el("th", None, name) for name in ("Time", "Speaker", "Said", "Voice"))),
    )
    body = [
        el(
            "tr",
            {"id": f"row-{number}", "style": f"--c:{turn_colour(turn, colours)}"},
            el("td", None, f"{clock(turn['start'], 1)} \N{EN DASH} {clock(turn['end'], 1)}"),
            el("td", {"class": "who"}, turn["speaker"]),
            el("td", {"class": "said"}, _said(turn)),
            el("td", None, _voice(turn)),
        )
        for number, turn in enumerate(data["turns"])
    ]
    return el("table", {"class": "turns"}, head, el("tbody", None, *body))


def _said(turn: dict[str, Any]) -> str:
    if turn.get("SpeechActivity") is False:
        return el("em", None, "no speech")
    if "Transcript" not in turn:
        return ""
    return turn["Transcript"] or el("em", None, "no words")


def _voice(turn: dict[str, Any]) -> Markup:
    confidence = turn.get("confidence", {})
    facts = []
    for name in LABEL_FIELDS:
        if turn.get(name):
            sure = f" {percent(confidence[name])}" if name in confidence else ""
            facts.append(el("span", {"title": name}, el("b", None, turn[name]), sure))
    for flag in turn.get("flags", []):
        facts.append(el("span", None, flag.replace("_", " ")))
    return el("div", {"class": "facts"}, *facts)
