"""Two or more reports on the same clips: values, paired differences, intervals, p values.

Every value is of the clips that all the compared reports hold. A difference is the later report
minus the earlier one. Intervals and the bootstrap's p values resample speakers with all their
clips (or single clips), in all systems at once. McNemar's test (exact, two-sided) looks at the
clips on which just one of two systems is right and takes clips for independent. With more than two
systems, the p values of one measure are also given after Holm's correction (Holm 1979, Scand. J.
Statist. 6, 65-70).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from speechmeta.errors import DatasetError, UsageError
from speechmeta.schema import LABEL_FIELDS

from ..metrics.bootstrap import LEVEL, RESAMPLES, Array, resampled, sum_by_unit
from ..metrics.score import GROUP_COLUMN, GROUP_FIELDS, MIN_GROUP, gap_between

KIND = "speechmeta-eval-comparison"
SCHEMA_VERSION = "2.0"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Resample = Literal["speakers", "clips"]
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Measure:
    """A value of each system as a function of summed columns.

    Attributes:
        name: such as `wer` or `Gender_uar`.
        systems: which systems have it, by their place among the reports.
        places: the clips that it is of, by their place among the common ones.
        values: (clips, columns).
        statistic: from sums (..., columns) to values (..., systems).
        right: (clips, systems) of 0 and 1 where clips are right or wrong, else None.
    """

    name: str
    systems: Sequence[int]
    places: Sequence[int]
    values: Array
    statistic: Callable[[Array], Array]
    right: Array | None = None


def compare_reports(
    reports: Sequence[Mapping[str, Any]],
    names: Sequence[str] | None = None,
    *,
    resample: Resample = "speakers",
) -> dict[str, Any]:
    """Compares what the reports measured, on the clips that all of them hold.

    Args:
        reports: as `output.load_report` gives them, at least two.
        names: what to call the systems; None for the names in the reports.
        resample: what is drawn with replacement: speakers with all their clips, or clips.

    Returns:
        JSON-ready. `measures` by name (`wer`, `cer`, `<field>_accuracy`, `<field>_uar`) has `n`,
        `values` (of each system, null where it has no such measure) and `differences` (a, b,
        difference, interval, p_bootstrap, p_holm and, for accuracies, mcnemar). `sources` and
        `groups` hold the same by data set and by group of speakers, `gaps` the differences
        between each system's best and worst group.

    Raises:
        UsageError: fewer than two reports, or a name too few or too many.
        DatasetError: a report has no clips (a teacher-forced one), or they share none, or
            their references differ.
    """
    if not 2 <= len(reports) <= len(LETTERS):
        raise UsageError(f"{len(reports)} reports were given", "compare two to 26 of them")
    if names is not None and len(names) != len(reports):
        raise UsageError(
            f"{len(names)} names for {len(reports)} reports", "give each report one name"
        )
    tables, notes = _common(reports)
    normalizers = sorted({str(report["normalizer"]) for report in reports})
    if len(normalizers) > 1:
        notes.append(f"Words are not compared: normalised by {' and '.join(normalizers)}.")
    drawn = "speakers" if resample == "speakers" else "clips"
    notes.append(
        f"Intervals and p: paired bootstrap over {drawn}, {RESAMPLES} resamples. McNemar: exact, "
        "clips taken for independent."
    )
    count = len(tables[0]["id"])
    units = [str(unit) for unit in tables[0]["unit" if resample == "speakers" else "id"]]
    with_words = len(normalizers) == 1

    def measured(places: Sequence[int]) -> dict[str, Any]:
        found = _measures(tables, places, with_words)
        return {item.name: _measured(item, units, len(tables)) for item in found}

    sources, groups = _slices(tables, count)
    if not sources:
        notes.append("No report says which data set a clip is of.")
    by_source = {name: measured(places) for name, places in sources.items()}
    by_group = {
        trait: {name: measured(places) for name, places in parts.items()}
        for trait, parts in groups.items()
    }
    return {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "systems": [
            _system(report, LETTERS[i], names[i] if names else None)
            for i, report in enumerate(reports)
        ],
        "n": count,
        "resample": resample,
        "measures": measured(range(count)),
        "sources": by_source,
        "groups": by_group,
        "gaps": {trait: _gaps(parts, len(tables)) for trait, parts in by_group.items()},
        "notes": notes,
    }


def mcnemar(first: Array, second: Array) -> dict[str, Any]:
    """Exact two-sided McNemar test of two 0/1 arrays (clips,)."""
    from scipy.stats import binomtest

    only_a = int(((first == 1) & (second == 0)).sum())
    only_b = int(((first == 0) & (second == 1)).sum())
    discordant = only_a + only_b
    p = float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0
    return {"only_a_right": only_a, "only_b_right": only_b, "p": p}


def holm(p_values: Sequence[float]) -> list[float]:
    """p values after Holm's step-down correction, in the same order."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def _system(report: Mapping[str, Any], letter: str, name: str | None) -> dict[str, Any]:
    system = report["system"]
    heads = f" ({system['heads']} heads)" if system.get("heads") else ""
    return {
        "key": letter,
        "name": name or f"{system['name']}{heads}",
        "architecture": system["architecture"],
        "dtype": system.get("dtype"),
        "dataset": report["dataset"]["name"],
        "condition": report.get("condition"),
        "command": report.get("command"),
        "created": report["created"],
        "clips": report["n"],
        "errors": report["errors"],
    }


def _common(reports: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, list[Any]]], list[str]]:
    """The columns of each report for the clips that all hold, in the first one's order."""
    for report in reports:
        if "clips" not in report:
            raise DatasetError(
                f"the report of {report['system']['name']} is {report['decoding']} and holds no "
                "clips",
                "compare free-running reports",
            )
    places = [{name: i for i, name in enumerate(r["clips"]["id"])} for r in reports]
    names = [name for name in places[0] if all(name in found for found in places[1:])]
    if not names:
        raise DatasetError("the reports have no clip in common", "compare runs on one data set")
    notes = []
    tables = []
    for letter, report, found in zip(LETTERS, reports, places, strict=False):
        alone = len(found) - len(names)
        if alone:
            notes.append(f"{alone} clips of {letter} are not in all the reports, and are left out.")
        rows = [found[name] for name in names]
        tables.append({key: [c[i] for i in rows] for key, c in report["clips"].items()})
    return tables, notes


def _slices(
    tables: Sequence[Columns], count: int
) -> tuple[dict[str, list[int]], dict[str, dict[str, list[int]]]]:
    """The places of the clips by data set, and by group of each trait.

    A system that predicts no labels knows no groups: the first report that does tells them."""
    sources = _places(_first(tables, "dataset"))
    traits = {field: f"{field}_reference" for field in GROUP_FIELDS}
    for table in tables:
        for key in table:
            if key.startswith(GROUP_COLUMN):
                traits.setdefault(key.removeprefix(GROUP_COLUMN), key)
    groups = {trait: _places(_first(tables, column)) for trait, column in traits.items()}
    return sources, {trait: parts for trait, parts in groups.items() if len(parts) > 1}


def _first(tables: Sequence[Columns], name: str) -> Sequence[Any]:
    return next((table[name] for table in tables if name in table), ())


def _places(column: Sequence[Any]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, value in enumerate(column):
        if value is not None:
            found.setdefault(str(value), []).append(place)
    return dict(sorted(found.items()))


def _measures(
    tables: Sequence[Columns], places: Sequence[int], with_words: bool
) -> Iterator[Measure]:
    if with_words:
        for name, errors, size in (
            ("wer", "word_errors", "words"),
            ("cer", "character_errors", "characters"),
        ):
            found = _rates(name, errors, size, tables, places)
            if found is not None:
                yield found
    for field in ("SpeechActivity", *LABEL_FIELDS):
        yield from _accuracies(field, tables, places)


def _known(
    tables: Sequence[Columns], column: str, places: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The systems that have a column with any value, and the clips where all of them have one."""
    systems = [
        i
        for i, table in enumerate(tables)
        if column in table and any(table[column][place] is not None for place in places)
    ]
    clips = [p for p in places if all(tables[i][column][p] is not None for i in systems)]
    return (systems, clips) if clips else ([], [])


def _rates(
    name: str, errors: str, size: str, tables: Sequence[Columns], places: Sequence[int]
) -> Measure | None:
    systems, clips = _known(tables, errors, places)
    if not systems:
        return None
    _check_same([[tables[i][size][p] for p in clips] for i in systems])
    lengths = tables[systems[0]][size]
    rows = [[*(tables[i][errors][p] for i in systems), lengths[p]] for p in clips]
    return Measure(name, systems, clips, np.array(rows, dtype=float), _by_last_column)


def _by_last_column(sums: Array) -> Array:
    result: Array = sums[..., :-1] / sums[..., -1:]
    return result


def _accuracies(field: str, tables: Sequence[Columns], places: Sequence[int]) -> Iterator[Measure]:
    systems, clips = _known(tables, field, places)
    if not systems:
        return
    rows = np.array([[*(tables[i][field][p] for i in systems), 1] for p in clips], dtype=float)
    right = rows[:, :-1]
    yield Measure(f"{field}_accuracy", systems, clips, rows, _by_last_column, right)
    column = f"{field}_reference"
    columns = [[tables[i][column][p] for p in clips] for i in systems if column in tables[i]]
    _check_same(columns)
    if len(columns) < len(systems):
        return
    classes = sorted(set(columns[0]))
    if len(classes) < 2:
        return  # the accuracy once more
    width = rows.shape[1]
    values = np.zeros((len(clips), len(classes), width))
    for row, reference in enumerate(columns[0]):
        values[row, classes.index(reference)] = rows[row]

    def uar(sums: Array) -> Array:
        table = sums.reshape(*sums.shape[:-1], len(classes), width)
        support = table[..., -1]
        recalls = table[..., :-1] / np.where(support, support, 1)[..., None]
        result: Array = recalls.sum(-2) / (support > 0).sum(-1)[..., None]
        return result

    yield Measure(f"{field}_uar", systems, clips, values.reshape(len(clips), -1), uar)


def _check_same(columns: Sequence[Sequence[Any]]) -> None:
    if any(column != columns[0] for column in columns[1:]):
        raise DatasetError("the reports have other references", "compare runs on one data set")


def _measured(measure: Measure, units: Sequence[str], count: int) -> dict[str, Any]:
    """Values and differences, JSON-ready; None at the place of a system without the measure."""
    sums = sum_by_unit([units[place] for place in measure.places], measure.values)
    values = measure.statistic(sums.sum(axis=0, keepdims=True))[0]
    draws = resampled(sums, measure.statistic) if len(sums) > 1 else None
    shown: list[dict[str, Any] | None] = [None] * count
    for column, system in enumerate(measure.systems):
        limits = None if draws is None else _limits(draws[:, column])
        shown[system] = {"value": float(values[column]), "interval": limits}
    differences = []
    for first, second in combinations(range(len(measure.systems)), 2):
        a, b = measure.systems[first], measure.systems[second]
        item: dict[str, Any] = {
            "a": LETTERS[a],
            "b": LETTERS[b],
            "difference": float(values[second] - values[first]),
            "interval": None,
            "p_bootstrap": None,
        }
        if draws is not None:
            apart = draws[:, second] - draws[:, first]
            item["interval"], item["p_bootstrap"] = _limits(apart), _p_bootstrap(apart)
        if measure.right is not None:
            item["mcnemar"] = mcnemar(measure.right[:, first], measure.right[:, second])
        differences.append(item)
    known = [item for item in differences if item["p_bootstrap"] is not None]
    for item, p in zip(known, holm([item["p_bootstrap"] for item in known]), strict=True):
        item["p_holm"] = p
    return {"n": len(measure.places), "values": shown, "differences": differences}


def _limits(draws: Array) -> list[float] | None:
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return None
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return [float(low), float(high)]


def _p_bootstrap(draws: Array) -> float | None:
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return None
    # Two-sided; one is added so that no p is zero (Davison and Hinkley 1997, 4.2).
    below, above = (draws <= 0).sum() + 1, (draws >= 0).sum() + 1
    return min(1.0, 2 * float(min(below, above)) / (len(draws) + 1))


def _gaps(parts: Mapping[str, Any], count: int) -> dict[str, Any]:
    """By measure and system the gap between the best and the worst group that is large enough."""
    gaps: dict[str, Any] = {}
    for name in dict.fromkeys(name for part in parts.values() for name in part):
        if name == "cer" or name.endswith("_uar"):
            continue  # as in a report of one system
        found: list[dict[str, Any] | None] = []
        for system in range(count):
            values = {
                group: part[name]["values"][system]["value"]
                for group, part in parts.items()
                if name in part
                and part[name]["n"] >= MIN_GROUP
                and part[name]["values"][system] is not None
            }
            found.append(gap_between(values, lowest_is_best=name == "wer"))
        if any(found):
            gaps[name] = found
    return gaps
