"""The fixed halves of a held-out manifest."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from speechmeta.errors import DatasetError
from speechmeta.training.splits import assign_halves, read_halves


def _row(dataset: str, speaker: str | None, clip: int = 0, **labels: Any) -> dict[str, Any]:
    return {
        "audio": f"dev/{dataset}/{dataset}_{speaker}_{clip}.opus",
        "dataset": dataset,
        "speaker": speaker,
        **labels,
    }


def test_a_speaker_is_never_in_both_halves_not_even_across_data_sets() -> None:
    rows = [_row(d, f"s{i}", clip) for d in "ab" for i in range(30) for clip in range(3)]
    halves: dict[str, set[str]] = {}
    for row, half in zip(rows, assign_halves(rows), strict=True):
        halves.setdefault(row["speaker"], set()).add(half)
    assert {len(found) for found in halves.values()} == {1}
    assert Counter(half for found in halves.values() for half in found) == {"test": 20, "tune": 10}


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = [_row("a", f"s{i}", age=random.Random(i).choice(["Young", None])) for i in range(40)]
    expected = dict(zip((row["audio"] for row in rows), assign_halves(rows), strict=True))
    shuffled = random.Random(0).sample(rows, len(rows))
    got = dict(zip((row["audio"] for row in shuffled), assign_halves(shuffled), strict=True))
    assert got == expected


def test_each_trait_is_in_both_halves_in_proportion() -> None:
    rows = [_row("a", f"s{i}", age="Senior" if i < 9 else "Young") for i in range(60)]
    rows += [_row("b", f"c{i}", age="Young", age_years=7) for i in range(6)]
    counts = Counter(
        (row["age"], row["speaker"][0], half)
        for row, half in zip(rows, assign_halves(rows), strict=True)
    )
    assert counts["Senior", "s", "tune"] == 3
    assert counts["Young", "s", "tune"] == 17
    assert counts["Young", "c", "tune"] == 2


def test_few_speakers_and_unknown_ones() -> None:
    """One voice is reported on, two are one for each half; unknown speakers go clip by clip."""
    assert set(assign_halves([_row("a", "only", i) for i in range(9)])) == {"test"}
    assert Counter(assign_halves([_row("a", s) for s in ("x", "y")])) == {"tune": 1, "test": 1}
    for unknown in (None, "", "several"):
        halves = assign_halves([_row("a", unknown, i) for i in range(9)])
        assert Counter(halves) == {"test": 6, "tune": 3}


def test_halves_by_path(tmp_path: Path) -> None:
    rows = [_row("a", f"s{i}") for i in range(5)]
    manifest = tmp_path / "dev.jsonl"
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    assert list(read_halves(manifest).values()) == assign_halves(rows)
    assert next(iter(read_halves(manifest))) == tmp_path / rows[0]["audio"]
    manifest.write_text('{"dataset": "a"}')
    with pytest.raises(DatasetError, match="line 1: no audio path"):
        read_halves(manifest)


def test_the_shared_dev_manifest_is_split_once_and_for_all(shared_dir: Path) -> None:
    """Figures of different days may be compared as long as these counts stand."""
    path = shared_dir / "speech" / "dev.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path}")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    halves = list(read_halves(path).values())
    assert Counter(halves) == {"test": 1736, "tune": 621}
    seniors = [half for row, half in zip(rows, halves, strict=True) if row["age"] == "Senior"]
    assert Counter(seniors) == {"test": 59, "tune": 17}
    actors = {
        (row["speaker"], half)
        for row, half in zip(rows, halves, strict=True)
        if row["dataset"] == "ravdess"
    }
    assert actors == {("rav19", "tune"), ("rav20", "test")}
