"""Two reports on the same clips: paired differences, intervals, p values.

Differences are B minus A. Intervals and the bootstrap's p values resample speakers with all
their clips in both systems at once. McNemar's test (exact, two-sided) looks at the clips on
which just one of the systems is right and takes clips for independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechmeta.errors import DatasetError
from speechmeta.schema import LABEL_FIELDS

from ..metrics.bootstrap import LEVEL, RESAMPLES, Array, resampled, sum_by_unit
from .tables import NOTHING, Table, percent, spread


@dataclass(frozen=True)
class Measure:
    """A difference as a function of summed columns."""

    name: str
    n: int
    units: list[str]
    values: Array
    statistic: Callable[[Array], Array]


def compare_reports(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Compares what both reports measured, on the clips that both hold.

    Returns:
        JSON-ready; `measures` by name (`wer`, `cer`, `<field>_accuracy`, `<field>_uar`) with
        a, b, difference, interval, p_bootstrap and, for accuracies, mcnemar.

    Raises:
        DatasetError: a report has no clips (a teacher-forced one), or they share none, or
            their references differ.
    """
    for report in (a, b):
        if "clips" not in report:
            raise DatasetError(
                f"the report of {report['system']['name']} is {report['decoding']} and holds no "
                "clips",
                "compare free-running reports",
            )
    places = {name: i for i, name in enumerate(b["clips"]["id"])}
    pairs = [(i, places[name]) for i, name in enumerate(a["clips"]["id"]) if name in places]
    if not pairs:
        raise DatasetError("the two reports have no clip in common", "compare runs on one data set")
    left = {key: [column[i] for i, _ in pairs] for key, column in a["clips"].items()}
    right = {key: [column[j] for _, j in pairs] for key, column in b["clips"].items()}
    notes = []
    for report, name in ((a, "A"), (b, "B")):
        alone = len(report["clips"]["id"]) - len(pairs)
        if alone:
            notes.append(f"{alone} clips are only in {name} and are left out.")
    same_text = a["normalizer"] == b["normalizer"]
    if not same_text:
        notes.append(
            f"Words are not compared: normalised by {a['normalizer']} and {b['normalizer']}."
        )
    notes.append(
        f"Intervals and p: paired bootstrap over speakers, {RESAMPLES} resamples. McNemar: exact, "
        "clips taken for independent."
    )
    measures: dict[str, Any] = {}
    units = [str(unit) for unit in left["unit"]]
    if same_text:
        for name, errors, size in (
            ("wer", "word_errors", "words"),
            ("cer", "character_errors", "characters"),
        ):
            measure = _rates(name, errors, size, left, right, units)
            if measure is not None:
                measures[name] = _measured(measure)
    for field in ("SpeechActivity", *LABEL_FIELDS):
        if field not in left or field not in right:
            continue
        both = [i for i, value in enumerate(left[field]) if value is not None]
        both = [i for i in both if right[field][i] is not None]
        if both:
            measures.update(_accuracies(field, both, left, right, units))
    return {
        "kind": "speechmeta-eval-comparison",
        "a": _title(a),
        "b": _title(b),
        "n": len(pairs),
        "measures": measures,
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


def comparison_tables(comparison: Mapping[str, Any]) -> list[Table]:
    """The comparison as rows of text."""
    rows = []
    for name, item in comparison["measures"].items():
        test = item.get("mcnemar")
        rows.append(
            (
                name.replace("_", " "),
                str(item["n"]),
                percent(item["a"]),
                percent(item["b"]),
                f"{100 * item['difference']:+.2f}",
                spread(item["interval"]),
                _p(item["p_bootstrap"]),
                _p(test["p"]) if test else "",
                f"{test['only_a_right']} / {test['only_b_right']}" if test else "",
            )
        )
    header = (
        "", "n", "A %", "B %", "B - A", "95 %", "p (bootstrap)", "p (McNemar)", "only A / B right",
    )  # fmt: skip
    return [Table(f"B minus A on {comparison['n']} clips", header, rows)]


def _rates(
    name: str,
    errors: str,
    size: str,
    left: Mapping[str, list[Any]],
    right: Mapping[str, list[Any]],
    units: list[str],
) -> Measure | None:
    both = [
        i
        for i, (x, y) in enumerate(zip(left[errors], right[errors], strict=True))
        if x is not None and y is not None
    ]
    if not both:
        return None
    if any(left[size][i] != right[size][i] for i in both):
        raise DatasetError("the reports have other references", "compare runs on one data set")
    rows = [[left[errors][i], right[errors][i], left[size][i]] for i in both]

    def statistic(sums: Array) -> Array:
        result: Array = sums[..., :2] / sums[..., 2:]
        return result

    return Measure(
        name, len(both), [units[i] for i in both], np.array(rows, dtype=float), statistic
    )


def _accuracies(
    field: str,
    both: list[int],
    left: Mapping[str, list[Any]],
    right: Mapping[str, list[Any]],
    units: list[str],
) -> dict[str, Any]:
    right_or_wrong = np.array([[left[field][i], right[field][i], 1] for i in both], dtype=float)
    chosen = [units[i] for i in both]

    def mean(sums: Array) -> Array:
        result: Array = sums[..., :2] / sums[..., 2:]
        return result

    accuracy = _measured(Measure(field, len(both), chosen, right_or_wrong, mean))
    accuracy["mcnemar"] = mcnemar(right_or_wrong[:, 0], right_or_wrong[:, 1])
    measures = {f"{field}_accuracy": accuracy}
    column = left.get(f"{field}_reference")
    if column is None:
        return measures
    references = [column[i] for i in both]
    if references != [right[f"{field}_reference"][i] for i in both]:
        raise DatasetError("the reports have other references", "compare runs on one data set")
    names = sorted(set(references))
    values = np.zeros((len(both), len(names), 3))
    for row, reference in enumerate(references):
        values[row, names.index(reference)] = right_or_wrong[row]

    def uar(sums: Array) -> Array:
        table = sums.reshape(*sums.shape[:-1], len(names), 3)
        support = table[..., 2]
        recalls = table[..., :2] / np.where(support, support, 1)[..., None]
        result: Array = recalls.sum(-2) / (support > 0).sum(-1)[..., None]
        return result

    measures[f"{field}_uar"] = _measured(
        Measure(field, len(both), chosen, values.reshape(len(both), -1), uar)
    )
    return measures


def _measured(measure: Measure) -> dict[str, Any]:
    sums = sum_by_unit(measure.units, measure.values)
    a, b = (float(value) for value in measure.statistic(sums.sum(axis=0, keepdims=True))[0])
    result: dict[str, Any] = {"n": measure.n, "a": a, "b": b, "difference": b - a}
    result.update({"interval": None, "p_bootstrap": None})
    if len(sums) > 1:
        draws = resampled(sums, lambda s: np.diff(measure.statistic(s), axis=-1)[..., 0])
        draws = draws[np.isfinite(draws)]
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(draws, [tail, 1 - tail])
        # Two-sided; one is added so that no p is zero (Davison and Hinkley 1997, 4.2).
        below, above = (draws <= 0).sum() + 1, (draws >= 0).sum() + 1
        p = min(1.0, 2 * float(min(below, above)) / (len(draws) + 1))
        result.update({"interval": [float(low), float(high)], "p_bootstrap": p})
    return result


def _title(report: Mapping[str, Any]) -> str:
    return f"{report['system']['name']} on {report['dataset']['name']} ({report['created']})"


def _p(value: float | None) -> str:
    return NOTHING if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
