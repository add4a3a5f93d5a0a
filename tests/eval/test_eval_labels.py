"""The committed label tables, and how values are looked up in them."""

from __future__ import annotations

import pytest

from speechmeta.errors import DatasetError
from speechmeta.eval.readers.label_maps import (
    COLUMNS,
    LabelMapper,
    load_table,
    parse_table,
    split_values,
)
from speechmeta.schema import DEFAULT_LABEL_SETS, LABEL_FIELDS

COMMON_ACCENT = (
    "african australia bermuda canada england hongkong indian ireland malaysia newzealand "
    "philippines scotland singapore southatlandtic us wales"
).split()
"""The 16 classes of CommonAccent (arXiv 2305.18283)."""


@pytest.mark.parametrize("field", LABEL_FIELDS)
def test_every_row_has_a_source_and_every_class_a_row(field: str) -> None:
    rows = load_table(field)
    assert all(row.source and row.value and row.dataset for row in rows)
    assert {row.label for row in rows} - {None} == set(DEFAULT_LABEL_SETS[field])


def test_the_accent_table_is_wide() -> None:
    mapped = [row for row in load_table("Accent") if row.label is not None]
    assert len(mapped) >= 100


def test_common_accents_classes_are_all_known() -> None:
    known = {row.value: row.label for row in load_table("Accent")}
    assert all(name in known for name in COMMON_ACCENT)
    assert [name for name in COMMON_ACCENT if known[name] is None] == ["bermuda", "southatlandtic"]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("United States English", "America"),
        ("united  states ENGLISH", "America"),
        ("India and South Asia (India, Pakistan, Sri Lanka)", "South-Asia"),
        ("Scottish English", "Celtic"),
        ("Liverpool English,Lancashire English,England English", "Europe"),
        ("German English,Non native speaker", "Europe"),
        ("United States English|Midwestern", "America"),
        ("Hong Kong English", "South-East-Asia"),
        ("South-Asia", "South-Asia"),
    ],
)
def test_accents_of_common_voice_become_classes(value: str, label: str) -> None:
    assert LabelMapper("commonvoice").map("Accent", value) == label


def test_what_maps_to_nothing_is_counted() -> None:
    mapper = LabelMapper("commonvoice")
    for value in (
        "England English,New Zealand English",
        "Non native speaker",
        "West Indies and Bermuda (Bahamas, Bermuda, Jamaica, Trinidad)",
        "Low,Demure",
        "a lilt of my own",
        "a lilt of my own",
        None,
        " ",
    ):
        assert mapper.map("Accent", value) is None
    assert mapper.report()["Accent"] == {
        "mapped": {},
        "without_value": 2,
        "no_class": {
            "Non native speaker": 1,
            "West Indies and Bermuda (Bahamas, Bermuda, Jamaica, Trinidad)": 1,
            "Low,Demure": 1,
        },
        "conflicting": {"England English,New Zealand English": 1},
        "unknown": {"a lilt of my own": 2},
    }


def test_protocols_of_iemocap_differ_in_frustrated() -> None:
    four, five = LabelMapper("iemocap-4"), LabelMapper("iemocap-5")
    assert (four.map("Emotion", "fru"), five.map("Emotion", "fru")) == (None, "Frustrated")
    assert four.map("Emotion", "exc") == five.map("Emotion", "exc") == "Happy"
    # Elsewhere nobody said that excitement is happiness.
    assert LabelMapper("manifest").map("Emotion", "excited") is None


@pytest.mark.parametrize(
    ("value", "label"),
    [("29", "Young"), ("30", "Middle-Age"), ("59", "Middle-Age"), ("60", "Senior"),
     ("teens", "Young"), ("fourties", "Middle-Age"), ("nineties", "Senior"), ("50-70", None)],
)  # fmt: skip
def test_ages_of_common_voice_become_classes(value: str, label: str | None) -> None:
    assert LabelMapper("commonvoice").map("Age", value) == label


def test_split_values_keeps_commas_in_parentheses() -> None:
    assert split_values("A (b, c), d|e (f|g") == ["A (b, c)", "d", "e (f", "g"]
    assert split_values("") == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x\tvalue\tAtlantis\tsource", "no class 'Atlantis'"),
        ("x\tvalue\tAfrica\t", "not complete"),
        ("x\tvalue\tAfrica\ts\nx\tVALUE\tEurope\ts", "occurs twice"),
    ],
)
def test_bad_rows_are_refused(row: str, message: str) -> None:
    lines = ["\t".join(COLUMNS), *row.split("\n")]
    with pytest.raises(DatasetError, match=message):
        parse_table("Accent", lines)
