"""From a data set's own labels to this project's classes, by committed tables.

The tables are `tables/<field>.tsv`: a row says what one value of one data set means (`*`: of
any data set) and on what grounds. An empty label says that the value has no class. A value
that no row names is counted and reported, never guessed.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from speechmeta.errors import DatasetError
from speechmeta.schema import DEFAULT_LABEL_SETS, LABEL_FIELDS

COLUMNS = ("dataset", "value", "label", "source")


@dataclass(frozen=True)
class Row:
    """One line of a table; `label` is None where the value has no class."""

    dataset: str
    value: str
    label: str | None
    source: str


def fold(value: str) -> str:
    """How values are compared: without case and surplus spaces."""
    return " ".join(value.casefold().split())


@cache
def load_table(field: str) -> tuple[Row, ...]:
    """The committed table of a label field.

    Raises:
        DatasetError: a row is not as it should be.
    """
    text = (
        resources.files("speechmeta.eval")
        .joinpath("tables", f"{field.lower()}.tsv")
        .read_text("utf-8")
    )
    return parse_table(field, text.splitlines())


def parse_table(field: str, lines: Iterable[str]) -> tuple[Row, ...]:
    """Reads and checks the lines of a table, the header first.

    Raises:
        DatasetError: a column is missing, a label is no class, a row has no source, or two
            rows name the same value.
    """
    reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise DatasetError(f"the table of {field} has columns {reader.fieldnames}", str(COLUMNS))
    rows: dict[tuple[str, str], Row] = {}
    for number, cells in enumerate(reader, 2):
        row = Row(
            dataset=cells["dataset"] or "",
            value=cells["value"] or "",
            label=cells["label"] or None,
            source=cells["source"] or "",
        )
        key = (row.dataset, fold(row.value))
        if not (row.dataset and row.value and row.source):
            raise DatasetError(f"the table of {field}, line {number}, is not complete")
        if row.label is not None and row.label not in DEFAULT_LABEL_SETS[field]:
            raise DatasetError(f"the table of {field}, line {number}: no class {row.label!r}")
        if key in rows:
            raise DatasetError(f"the table of {field}, line {number}: {row.value!r} occurs twice")
        rows[key] = row
    return tuple(rows.values())


class LabelMapper:
    """Maps one data set's labels and counts what became of each.

    Args:
        dataset: name under which the tables know the data set.
    """

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self._index: dict[str, dict[str, str | None]] = {}
        self._mapped: dict[str, Counter[str]] = {field: Counter() for field in LABEL_FIELDS}
        self._outcomes: dict[str, dict[str, Counter[str]]] = {
            field: {"no_class": Counter(), "conflicting": Counter(), "unknown": Counter()}
            for field in LABEL_FIELDS
        }
        self._empty: Counter[str] = Counter()

    def map(self, field: str, value: str | None) -> str | None:
        """The class of a source value, or None; counted either way."""
        if value is None or not value.strip():
            self._empty[field] += 1
            return None
        outcome, label = self._look_up(field, value)
        if label is not None:
            self._mapped[field][label] += 1
        else:
            self._outcomes[field][outcome][" ".join(value.split())] += 1
        return label

    def labels(self, **values: str | None) -> dict[str, str]:
        """The known classes of a clip; arguments are the fields in lower case."""
        found = {name.capitalize(): self.map(name.capitalize(), v) for name, v in values.items()}
        return {field: label for field, label in found.items() if label is not None}

    def report(self) -> dict[str, Any]:
        """By field: counts of mapped classes, of clips without a value, and of every value
        that has no class by the table, names several classes, or is in no table."""
        return {
            field: {
                "mapped": dict(self._mapped[field]),
                "without_value": self._empty[field],
                **{name: dict(c.most_common()) for name, c in self._outcomes[field].items()},
            }
            for field in LABEL_FIELDS
            if self._mapped[field] or any(self._outcomes[field].values())
        }

    def _look_up(self, field: str, value: str) -> tuple[str, str | None]:
        table = self._table(field)
        whole = fold(value)
        if whole in table:
            return "no_class", table[whole]
        if field == "Age" and whole.isdigit():
            return "no_class", age_group(int(whole))
        parts = [fold(part) for part in split_values(value)] if field == "Accent" else []
        labels = {table[part] for part in parts if table.get(part)}
        if len(labels) == 1:
            return "no_class", labels.pop()
        if labels:
            return "conflicting", None
        if len(parts) > 1 and all(part in table for part in parts):
            return "no_class", None
        return "unknown", None

    def _table(self, field: str) -> dict[str, str | None]:
        if field not in self._index:
            # The data set's own rows override those of any data set, and the class names
            # themselves are always understood.
            index: dict[str, str | None] = {fold(c): c for c in DEFAULT_LABEL_SETS[field]}
            for name in ("*", self.dataset):
                rows = (row for row in load_table(field) if row.dataset == name)
                index.update({fold(row.value): row.label for row in rows})
            self._index[field] = index
        return self._index[field]


def age_group(years: float) -> str:
    """The age class: Young under 30, Middle-Age 30 to 59, Senior from 60 years."""
    return "Young" if years < 30 else "Middle-Age" if years < 60 else "Senior"


def split_values(value: str) -> list[str]:
    """The parts of a list such as Common Voice's `accents`.

    Newer releases separate them by `|`, older ones by commas, which also stand inside
    parentheses, where they separate nothing.
    """
    parts, depth, start = [], 0, 0
    for place, char in enumerate(value):
        depth = max(0, depth + (char == "(") - (char == ")"))
        if char == "|" or (char == "," and depth == 0):
            parts.append(value[start:place])
            start = place + 1
    parts.append(value[start:])
    return [part.strip() for part in parts if part.strip()]
