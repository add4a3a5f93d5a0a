"""What an alert found, in words, as the terminal and the HTML page show it."""

from __future__ import annotations

from typing import Any


def found_by(alert: dict[str, Any]) -> str:
    """`"thank you for calling"`, `21.3 s of silence`, `Anger 81%` and the like.

    Args:
        alert: of the document.
    """
    value, text = alert.get("value") or 0.0, alert.get("text") or ""
    found: str = {
        "said": f'"{text}"',
        "not_said": "not said",
        "silence": f"{value:.1f} s of silence",
        "interruptions": f"{value:.0f} interruption{'' if value == 1 else 's'}",
        "emotion": f"{text} {100 * value:.0f}%",
        "talk_share": f"{100 * value:.0f}% of the talk",
    }[alert["when"]]
    return found
