"""The fixed halves of a held-out manifest: `tune` chooses, `test` is reported.

Temperatures, priors, thresholds and every choice between two trainings are made on the clips of
`tune` alone (about a third); figures are measured on those of `test`, whose speakers never chose
anything. The rule was fixed before anything was measured with it and must not change:

Within a data set speakers are ordered by child or not, age, accent, gender and then the SHA-256 of
`dataset/speaker`, so that neighbours are alike; the second of every three goes to `tune`
(systematic sampling of a sorted list, which is stratified in proportion). So of two speakers each
half gets one, and a data set of a single voice is `test` entirely. A clip of an unknown speaker
counts as a speaker of its own. A speaker of several data sets stays in the half that the first of
them (by name) gave.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from speechmeta.training.manifest import read_rows

Half = Literal["tune", "test"]
HALVES: tuple[Half, ...] = ("tune", "test")
CHILD_YEARS = 13
"""Below this age a speaker is a child, whose voice doesn't tell the gender."""
_UNKNOWN_SPEAKERS = ("", "several")


def assign_halves(rows: Sequence[Mapping[str, Any]]) -> list[Half]:
    """The half of each row of a whole manifest.

    Args:
        rows: all rows of the manifest, in any order, with at least `audio` (or `audio_filepath`).
            A part of them may come out differently: the rule counts speakers.
    """
    by_dataset: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in rows:
        by_dataset[_dataset(row)][_speaker(row)].append(row)
    found: dict[str, Half] = {}
    for dataset in sorted(by_dataset):
        speakers = by_dataset[dataset]
        ordered = sorted(speakers, key=lambda name: _order(dataset, name, speakers[name]))
        for place, name in enumerate(ordered):
            found.setdefault(name, "tune" if place % 3 == 1 else "test")
    return [found[_speaker(row)] for row in rows]


def read_halves(manifest: Path) -> dict[Path, Half]:
    """The half of each clip of a manifest by the path of its audio.

    Raises:
        DatasetError: the manifest cannot be read, or a line is not an object with audio.
    """
    rows = list(read_rows(manifest))
    halves = assign_halves([row.keys for row in rows])
    return {row.audio: half for row, half in zip(rows, halves, strict=True)}


def _dataset(row: Mapping[str, Any]) -> str:
    return str(row.get("dataset") or "")


def _clip(row: Mapping[str, Any]) -> str:
    return PurePosixPath(str(row.get("audio") or row["audio_filepath"])).name


def _speaker(row: Mapping[str, Any]) -> str:
    speaker = row.get("speaker")
    if speaker is None or str(speaker) in _UNKNOWN_SPEAKERS:
        return f"{_dataset(row)}/{_clip(row)}"
    return str(speaker)


def _order(dataset: str, speaker: str, rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    years = [float(row["age_years"]) for row in rows if row.get("age_years") is not None]
    child = bool(years) and min(years) < CHILD_YEARS
    digest = hashlib.sha256(f"{dataset}/{speaker}".encode()).hexdigest()
    return ("child" if child else "", *(_most(rows, key) for key in _TRAITS), digest)


_TRAITS = ("age", "accent", "gender")


def _most(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """What most of a speaker's rows say; the first by name of several."""
    counts = Counter(str(row[key]) for row in rows if row.get(key) is not None)
    return min(counts, key=lambda value: (-counts[value], value)) if counts else ""
