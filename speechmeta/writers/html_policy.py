"""The part of the HTML report that says which fields were computed of whom, and why not others."""

from __future__ import annotations

from typing import Any

from speechmeta.writers.markup import Markup, el


def policy_card(data: dict[str, Any]) -> Markup | None:
    """A table by speaker; None where every field was computed of everybody."""
    policy = data.get("policy")
    if not policy or not any(speaker["left_out"] for speaker in policy["speakers"]):
        return None
    head = el("tr", None, *(el("th", None, name) for name in ("Speaker", "Computed", "Left out")))
    rows = [
        el(
            "tr",
            None,
            el("td", {"class": "who"}, speaker["speaker"]),
            el("td", None, ", ".join(speaker["fields"]) or "nothing"),
            el("td", None, left_out(speaker["left_out"])),
        )
        for speaker in policy["speakers"]
    ]
    return el(
        "section",
        {"class": "card"},
        el(
            "div",
            {"class": "head"},
            el("h2", None, "What was computed"),
            el("span", {"class": "legend"}, f"policy {policy['name']}"),
        ),
        el("table", {"class": "turns"}, el("thead", None, head), el("tbody", None, *rows)),
    )


def left_out(reasons: dict[str, str]) -> str:
    """`Gender, Age: not asked for; Emotion: not allowed by the policy`."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())
