"""The tables of a comparison, as rows of text that the terminal, Markdown and HTML share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..metrics.score import MIN_GROUP
from .tables import NOTHING, Table, percent, spread

LEVEL_SHOWN = 0.05
"""Differences below this p are marked."""


def comparison_facts(comparison: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is compared, as (letter, system)."""
    facts = []
    for system in comparison["systems"]:
        kind = ", ".join(str(system[key]) for key in ("architecture", "dtype") if system[key])
        text = f"{system['name']} ({kind}) on {system['dataset']}, {system['created']}"
        if system["condition"]:
            text += f"; {system['condition']}"
        if system["errors"]:
            text += f"; {system['errors']} clips failed and count as wrong"
        facts.append((system["key"], text))
    return facts


def comparison_commands(comparison: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The command of each system's report, as (letter, command), where it is known."""
    return [(s["key"], s["command"]) for s in comparison["systems"] if s["command"]]


def comparison_tables(comparison: Mapping[str, Any]) -> list[Table]:
    """Values, differences, results by data set and group, and gaps."""
    keys = [system["key"] for system in comparison["systems"]]
    tables = [_values(comparison, keys), _differences(comparison)]
    tables += _by_slice(comparison, keys)
    tables.append(_gaps(comparison, keys))
    return [table for table in tables if table.rows]


def _shown(name: str) -> str:
    """A measure's name as people write it."""
    if name in ("wer", "cer"):
        return name.upper()
    return name.replace("_uar", " UAR").replace("_", " ")


def _values(comparison: Mapping[str, Any], keys: list[str]) -> Table:
    header = ["", "n", *(cell for key in keys for cell in (f"{key} %", "95 %"))]
    rows = []
    for name, item in comparison["measures"].items():
        cells = [_shown(name), str(item["n"])]
        for value in item["values"]:
            cells += [NOTHING, ""] if value is None else [*_value(value)]
        rows.append(tuple(cells))
    return Table(f"On {comparison['n']} clips", tuple(header), rows)


def _value(value: Mapping[str, Any]) -> tuple[str, str]:
    return percent(value["value"]), spread(value["interval"])


def _differences(comparison: Mapping[str, Any]) -> Table:
    several = len(comparison["systems"]) > 2
    rows = []
    for name, item in comparison["measures"].items():
        for pair in item["differences"]:
            test = pair.get("mcnemar")
            cells = [
                _shown(name),
                f"{pair['b']} - {pair['a']}",
                str(item["n"]),
                f"{100 * pair['difference']:+.2f}",
                spread(pair["interval"]),
                _p(pair["p_bootstrap"]),
            ]
            if several:
                cells.append(_p(pair.get("p_holm")))
            cells.append(_p(test["p"]) if test else "")
            cells.append(f"{test['only_a_right']} / {test['only_b_right']}" if test else "")
            rows.append(tuple(cells))
    header = ["", "Pair", "n", "Points", "95 %", "p (bootstrap)"]
    header += ["p (Holm)"] if several else []
    header += ["p (McNemar)", "only first / second right"]
    note = "For WER and CER less is better, for all other measures more."
    if several:
        note += " Holm: corrected for the number of pairs of a measure."
    return Table("Differences", tuple(header), rows, note)


def _by_slice(comparison: Mapping[str, Any], keys: list[str]) -> Iterator[Table]:
    slices = [(name, part) for name, part in comparison["sources"].items()]
    for trait, parts in comparison["groups"].items():
        slices += [(f"{trait}: {name}", part) for name, part in parts.items()]
    for measure in comparison["measures"]:
        if measure == "cer":
            continue
        rows = []
        for name, part in slices:
            if measure not in part:
                continue
            item = part[measure]
            few = "" if item["n"] >= MIN_GROUP else " (few)"
            cells = [name + few, str(item["n"])]
            for value in item["values"]:
                cells += [NOTHING, ""] if value is None else [*_value(value)]
            cells.append(_marked(item))
            rows.append(tuple(cells))
        header = ["", "n", *(cell for key in keys for cell in (f"{key} %", "95 %")), "p < 0.05"]
        note = (
            f"Last column: pairs whose difference has a bootstrap p below {LEVEL_SHOWN}, not "
            f"corrected for the number of rows. Few: fewer than {MIN_GROUP} clips."
        )
        yield Table(f"{_shown(measure)} by data set and group", tuple(header), rows, note)


def _marked(item: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{pair['b']} - {pair['a']} {100 * pair['difference']:+.1f}"
        for pair in item["differences"]
        if pair["p_bootstrap"] is not None and pair["p_bootstrap"] < LEVEL_SHOWN
    )


def _gaps(comparison: Mapping[str, Any], keys: list[str]) -> Table:
    rows = []
    for trait, measures in comparison["gaps"].items():
        for measure, found in measures.items():
            cells = [
                NOTHING
                if gap is None
                else f"{percent(gap['gap'])} ({gap['best']} to {gap['worst']})"
                for gap in found
            ]
            rows.append((f"{_shown(measure)} by {trait.lower()}", *cells))
    note = f"Points between the best and the worst group of at least {MIN_GROUP} clips."
    return Table("Gaps", ("", *keys), rows, note)


def _p(value: float | None) -> str:
    return NOTHING if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
