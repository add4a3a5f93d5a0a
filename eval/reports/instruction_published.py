"""Published figures of DeSTA2, for reading beside a run; none was measured by speechmeta."""

from __future__ import annotations

from typing import Any

NOTE = (
    "Published figures, not measured here. Source: the public leaderboard page, as quoted in "
    "this project's plan. Other data, prompts and scorers than a local manifest's: they cannot "
    "be compared with what was measured."
)

FIGURES: tuple[tuple[str, str, str, float], ...] = (
    ("DeSTA2", "Speech-IFEval", "IF rate %", 89.23),
    ("DeSTA2", "Dynamic-SUPERB", "content accuracy %", 79.41),
    ("DeSTA2", "SAKURA", "single-hop accuracy %", 63.0),
    ("DeSTA2", "MMAU", "speech accuracy %", 55.86),
    ("DeSTA2", "VoiceBench", "AlpacaEval, 1 to 5", 4.36),
)
"""System, benchmark, measure, value."""


def published_instruction_table() -> dict[str, Any]:
    """The figures as they stand in a report's JSON."""
    return {
        "note": NOTE,
        "figures": [
            {"system": system, "benchmark": benchmark, "measure": measure, "value": value}
            for system, benchmark, measure, value in FIGURES
        ],
    }
