"""One self-contained page per call: lanes of turns over the waveform, speakers, measures.

The page is one file with its styles and script inside. Its content policy forbids
every request, so it looks the same from a disk without network.
"""

from __future__ import annotations

import json
import os
from importlib import resources
from typing import Any

from speechmeta.schema import CallReport, Peaks
from speechmeta.version import __version__
from speechmeta.writers.base import TextWriter
from speechmeta.writers.html_parts import (
    clock,
    conversation_card,
    lanes_of,
    legend,
    plural,
    speaker_card,
    tiles,
    transcript,
)
from speechmeta.writers.html_policy import policy_card
from speechmeta.writers.html_timeline import timeline
from speechmeta.writers.markup import Markup, el, joined
from speechmeta.writers.structured import document

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class HtmlWriter(TextWriter):
    """Writes the page of one call."""

    name = "html"

    def text(self, report: CallReport) -> str:
        """The page, with the waveform if the report comes from an analysis."""
        return self.page(report, report.peaks)

    def page(self, report: CallReport, peaks: Peaks | None = None) -> str:
        """The whole page; without `peaks` the lanes show turns only."""
        data = document(report)
        title = os.path.basename(data["audio"]["path"] or "") or "Call"
        lanes = lanes_of(data)
        body = el(
            "main",
            None,
            _header(data, title),
            _warnings([*map(_failed, data.get("failures", [])), *data["warnings"]]),
            tiles(data),
            el(
                "section",
                {"class": "card", "aria-label": "Timeline"},
                el(
                    "div",
                    {"class": "head"},
                    el("h2", None, "Timeline"),
                    legend(data),
                    _zoom(),
                ),
                timeline(data, lanes, peaks),
            ),
            el(
                "section",
                {"class": "columns", "aria-label": "Speakers and conversation"},
                *(speaker_card(data, speaker) for speaker in data["speakers"]),
                conversation_card(data),
            ),
            _call_fields(data.get("call_fields") or {}),
            el(
                "section",
                {"class": "card"},
                el("div", {"class": "head"}, el("h2", None, "Turns")),
                transcript(data),
            ),
            policy_card(data),
            _footer(data),
        )
        return (
            "<!DOCTYPE html>\n"
            + el(
                "html",
                {"lang": "en"},
                el(
                    "head",
                    None,
                    el("meta", {"charset": "utf-8"}),
                    el("meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY}),
                    el(
                        "meta",
                        {"name": "viewport", "content": "width=device-width, initial-scale=1"},
                    ),
                    el("title", None, f"{title} - speechmeta"),
                    el("style", None, _asset("report.css")),
                ),
                el(
                    "body",
                    None,
                    body,
                    el("div", {"id": "tip", "role": "tooltip", "hidden": ""}),
                    el("script", None, _asset("report.js")),
                ),
            )
            + "\n"
        )


def _asset(name: str) -> Markup:
    return Markup("\n" + resources.files(__package__).joinpath(name).read_text("utf-8"))


def _header(data: dict[str, Any], title: str) -> Markup:
    audio = data["audio"]
    facts = [
        clock(audio["duration"]),
        plural(audio["channels"], "channel"),
        f"{audio['sample_rate'] / 1000:g} kHz",
    ]
    if audio["codec"]:
        facts.append(audio["codec"])
    if audio["path"] and audio["path"] != title:
        facts.append(audio["path"])
    line = el("p", {"class": "sub"}, " \N{MIDDLE DOT} ".join(facts))
    return el("header", None, el("h1", None, title), line)


def _warnings(warnings: list[str]) -> Markup | None:
    if not warnings:
        return None
    items = joined(*(el("li", None, text) for text in warnings))
    return el("section", {"class": "card warnings", "role": "note"}, el("ul", None, items))


def _failed(failure: dict[str, Any]) -> str:
    turns = ", ".join(map(str, failure.get("turns") or []))
    return f"no {failure['part']}{f' of turns {turns}' if turns else ''}: {failure['message']}"


def _call_fields(forms: dict[str, Any]) -> Markup | None:
    if not forms:
        return None
    items = [
        (name, value, form["evidence"].get(name, []))
        for form in forms.values()
        for name, value in (form["value"] or {}).items()
    ]
    rows = joined(
        *(
            el(
                "p",
                None,
                el("b", None, f"{name}: "),
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
                f" (turns {', '.join(map(str, cited))})" if cited else "",
            )
            for name, value, cited in items
        )
    )
    head = el("div", {"class": "head"}, el("h2", None, "Call fields"))
    return el("section", {"class": "card"}, head, rows)


def _zoom() -> Markup:
    buttons = (
        ("out", "\N{MINUS SIGN}", "Zoom out"),
        ("fit", "Fit", "Whole call"),
        ("in", "+", "Zoom in"),
    )
    return el(
        "div",
        {"class": "zoom"},
        *(
            el("button", {"type": "button", "data-zoom": action, "aria-label": label}, text)
            for action, text, label in buttons
        ),
    )


def _footer(data: dict[str, Any]) -> Markup:
    model, coverage = data["model"], data["coverage"]
    return el(
        "footer",
        None,
        f"speechmeta {__version__}, schema {data['schema_version']}. "
        f"Model {model['name']} ({model['architecture']}) on {model['device']}, {model['dtype']}. "
        f"Over all channels {coverage['speech_seconds']:.1f} s speech, "
        f"{coverage['non_speech_seconds']:.1f} s without, "
        f"{coverage['skipped_seconds']:.1f} s skipped"
        + (
            f", {coverage['missing_seconds']:.1f} s missing. "
            if coverage["missing_seconds"]
            else ". "
        ),
        "Gender, age, accent and emotion are estimates from the voice and can be wrong.",
    )
