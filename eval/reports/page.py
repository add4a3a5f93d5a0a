"""A report or a comparison as one HTML page that needs nothing else, in the call report's look.

The page's content policy runs no script at all; recordings are inside as data URIs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from speechmeta.version import __version__

from ..metrics.normalizers import Normalizer
from ..metrics.score import Scored, score_text
from ..metrics.word_errors import aligned
from ..types import Record
from .compare_tables import comparison_commands, comparison_facts, comparison_tables
from .player import audio_data_uri
from .plots import reliability_svg, risk_svg
from .tables import (
    Table,
    conventions,
    detail_tables,
    duration,
    facts,
    percent,
    published,
    summary_tables,
)

WORST = 50
"""How many clips get a player."""

LONG_CELL = 40
"""Characters from which a column is one of text: it may break, and is aligned to the left."""

TEMPLATES = "speechmeta.eval.reports"


def render_html(
    report: Mapping[str, Any], records: Sequence[Record], normalizer: Normalizer
) -> str:
    """The page of a run. Reads the recordings of the worst clips from where the records say."""
    free = "protocol" not in report
    details = [*detail_tables(report), *published(report)]
    worst = worst_clips(records, normalizer) if free else []
    return _page(
        "run.html",
        {
            "title": f"{report['system']['name']} on {report['dataset']['name']}",
            "subtitle": f"{report['decoding']}, {report['created']}",
            "tiles": _tiles(report),
            "facts": facts(report),
            "summary": [table_view(table) for table in summary_tables(report)],
            "conventions": [*conventions(report), *report["dataset"]["notes"]],
            "calibration": _calibration(report) if free else [],
            "details": [table_view(table) for table in details],
            "clips": [_clip(item) for item in worst],
        },
    )


def render_comparison_html(comparison: Mapping[str, Any]) -> str:
    """The page of a comparison."""
    return _page(
        "comparison.html",
        {
            "title": "Comparison on the same clips",
            "subtitle": f"{len(comparison['systems'])} systems, {comparison['n']} clips",
            "facts": comparison_facts(comparison),
            "tables": [table_view(table) for table in comparison_tables(comparison)],
            "notes": comparison["notes"],
            "commands": comparison_commands(comparison),
        },
    )


def worst_clips(records: Sequence[Record], normalizer: Normalizer) -> list[Scored]:
    """Failed clips, then those with most word errors, then with most wrong labels."""
    scored = [score_text(record, normalizer) for record in records]

    def badness(item: Scored) -> tuple[int, int, int]:
        errors = item.words.errors if item.words else 0
        return (item.record.error is not None, errors, len(wrong_fields(item.record)))

    bad = [item for item in scored if any(badness(item))]
    return sorted(bad, key=badness, reverse=True)[:WORST]


def wrong_fields(record: Record) -> list[str]:
    """The fields other than the transcript that the prediction has wrong."""
    return [
        field
        for field, value in record.reference.items()
        if field != "Transcript"
        and field in record.prediction
        and record.prediction[field] != value
    ]


def table_view(table: Table) -> dict[str, Any]:
    """A table as the template places it; cells of a confusion matrix know their row's share."""
    heat = table.title.endswith(": confusion")
    rows = []
    for name, *cells in table.rows:
        whole = (sum(map(int, cells)) or 1) if heat else 1
        shown = []
        for cell in cells:
            share = int(cell) / whole if heat else None
            tip = "" if share is None else f"{percent(share)} % of {name}"
            number = None if share is None else f"{share:.3f}"
            shown.append({"text": cell, "share": number, "tip": tip})
        rows.append((name, shown))
    texts = {
        column
        for column in range(1, len(table.header))
        if max((len(row[column]) for row in table.rows), default=0) > LONG_CELL
    }
    return {
        "id": _anchor(table.title),
        "title": table.title,
        "header": table.header,
        "rows": rows,
        "note": table.note,
        "heat": heat,
        "texts": texts,
    }


def _anchor(title: str) -> str:
    return "table-" + re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _page(template: str, values: dict[str, Any]) -> str:
    # Jinja2 is needed for pages only.
    from speechmeta.writers.html import render

    values = {**values, "version": __version__}
    styles = f"{TEMPLATES}:evaluation.css"
    return render(f"{TEMPLATES}:{template}", values, styles=styles)


def _tiles(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    tiles = [(str(report["n"]), "clips")]
    if "protocol" in report:
        return tiles
    tiles.append((duration(report["audio_seconds"]), "of audio"))
    if report["wer"] is not None:
        tiles.append((f"{percent(report['wer'])} %", "word error rate"))
    speech = report["speech_activity"]
    if speech is not None:
        tiles.append((f"{percent(speech['accuracy'])} %", "speech activity right"))
    tiles += [
        (f"{percent(item['uar'])} %", f"{name} UAR") for name, item in report["labels"].items()
    ]
    return tiles


def _calibration(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    from markupsafe import Markup

    return [
        {
            "id": f"calibration-{field.lower()}",
            "field": field,
            # Drawn here, from numbers only.
            "reliability": Markup(reliability_svg(item["reliability"])),
            "risk": Markup(risk_svg(item["risk"]["curve"])),
            "ece": percent(item["ece"]),
            "aurc": percent(item["risk"]["aurc"]),
            "n": item["ece_n"],
        }
        for field, item in report["labels"].items()
        if item["ece"] is not None
    ]


def _clip(item: Scored) -> dict[str, Any]:
    record = item.record
    wrong = wrong_fields(record)
    told = [record.id, record.dataset]
    told += [f"speaker {record.speaker}"] if record.speaker else []
    told += [f"{record.duration:.1f} s"] if record.duration is not None else []
    if item.words is not None:
        told.append(f"{item.words.errors} errors on {item.words.reference} words")
    labels = []
    for field, value in record.reference.items():
        if field == "Transcript" or field not in record.prediction:
            continue
        said = record.prediction[field]
        probability = record.probabilities.get(field, {}).get(str(said))
        sure = f" {percent(probability)} %" if probability is not None else ""
        labels.append(
            {"wrong": field in wrong, "text": f"{field}: {said}{sure} (reference {value})"}
        )
    return {
        "id": record.id,
        "facts": told,
        "error": record.error,
        "words": _alignment(item.reference_text, item.hypothesis_text),
        "labels": labels,
        "sound": audio_data_uri(record.audio, trusted=record.error is None),
    }


def _alignment(reference: str, hypothesis: str) -> list[tuple[str, str]]:
    parts = []
    for _, ref, hyp in aligned(reference, hypothesis):
        if ref == hyp:
            parts.append(("same", ref))
            continue
        if ref:
            parts.append(("missed", ref))
        if hyp:
            parts.append(("put in", hyp))
    return parts
