"""A report as one HTML page that needs nothing else: styles, plots and recordings inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..metrics.normalizers import Normalizer
from ..metrics.score import Scored, score_text
from ..metrics.word_errors import aligned
from ..types import Record
from .player import audio_data_uri
from .plots import reliability_svg, risk_svg
from .tables import (
    Table,
    conventions,
    detail_tables,
    facts,
    percent,
    published,
    summary_tables,
)

WORST = 50
"""How many clips get a player."""

STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #d9dee5; --paper: #fff; --tint: #f5f7fa;
  --accent: #1f6feb; --bad: #b3261e; --warn: #8a5a00; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa5b1; --line: #313a46;
  --paper: #12161c; --tint: #1a2029; --accent: #6ea8fe; --bad: #ff8a80; --warn: #e3b341;
  --good: #57c470; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; color: var(--ink);
  background: var(--paper); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .6rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { color: var(--soft); font-weight: 600; }
td.cell { text-align: center; }
.note, li { color: var(--soft); max-width: 60rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; max-width: 20rem; }
figcaption { color: var(--soft); font-size: .9rem; }
svg { width: 20rem; max-width: 100%; height: auto; }
article { border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; margin: .8rem 0;
  background: var(--tint); }
article header { display: flex; flex-wrap: wrap; gap: .3rem 1rem; color: var(--soft);
  font-size: .9rem; overflow-wrap: anywhere; }
article p { margin: .4rem 0; overflow-wrap: anywhere; }
audio { width: 100%; max-width: 28rem; height: 2.2rem; margin-top: .4rem; }
del { color: var(--bad); } ins { color: var(--good); text-decoration: underline; }
.wrong { color: var(--bad); font-weight: 600; } .label { color: var(--soft); }
"""


def render_html(
    report: Mapping[str, Any], records: Sequence[Record], normalizer: Normalizer
) -> str:
    """The page. Reads the recordings of the worst clips from where the records say."""
    title = f"{report['system']['name']} on {report['dataset']['name']}"
    parts = [f"<h1>{escape(title)}</h1>", "<dl>"]
    parts += [f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts(report)]
    parts.append("</dl>")
    parts += [_table(table) for table in summary_tables(report)]
    parts.append("<h2>How this was counted</h2><ul>")
    sentences = [*conventions(report), *report["dataset"]["notes"]]
    parts += [f"<li>{escape(sentence)}</li>" for sentence in sentences]
    parts.append("</ul>")
    if "protocol" not in report:
        parts += [_calibration(name, item) for name, item in report["labels"].items()]
    for table in detail_tables(report):
        parts.append(_heat(table) if table.title.endswith(": confusion") else _table(table))
    parts.append(_table(published(report)))
    if "protocol" not in report:
        parts.append(_worst(records, normalizer))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
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


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<h2>{escape(table.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{note}"
    )


def _heat(table: Table) -> str:
    # Shaded by the share of the row, so that rare classes can be read as well.
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = []
    for name, *cells in table.rows:
        whole = sum(map(int, cells)) or 1
        shades = (
            f'<td class="cell" style="background:rgba(31,111,235,{0.75 * int(c) / whole:.3f})" '
            f'title="{percent(int(c) / whole)} % of {escape(name)}">{c}</td>'
            for c in cells
        )
        rows.append(f"<tr><td>{escape(name)}</td>{''.join(shades)}</tr>")
    return (
        f'<h2>{escape(table.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _calibration(name: str, item: Mapping[str, Any]) -> str:
    if item["ece"] is None:
        return ""
    return (
        f'<h2>{escape(name)}: calibration</h2><div class="plots">'
        f"<figure>{reliability_svg(item['reliability'])}<figcaption>Reliability: accuracy by "
        f"confidence, ECE {percent(item['ece'])} %; the darker a bar, the more of the "
        f"{item['ece_n']} clips are in it</figcaption></figure>"
        f"<figure>{risk_svg(item['risk']['curve'])}<figcaption>Risk by coverage, AURC "
        f"{percent(item['risk']['aurc'])} %</figcaption></figure></div>"
    )


def _worst(records: Sequence[Record], normalizer: Normalizer) -> str:
    clips = worst_clips(records, normalizer)
    if not clips:
        return ""
    parts = [f"<h2>The worst {len(clips)} clips</h2>"]
    parts.append(
        '<p class="note">Failed clips first, then by word errors, then by wrong labels. '
        "<del>Red</del>: words of the reference that were missed or replaced; "
        "<ins>green</ins>: words that were put in.</p>"
    )
    parts += [_clip(item) for item in clips]
    return "\n".join(parts)


def _clip(item: Scored) -> str:
    record = item.record
    wrong = wrong_fields(record)
    head = [escape(record.id), escape(record.dataset)]
    head += [f"speaker {escape(record.speaker)}"] if record.speaker else []
    head += [f"{record.duration:.1f} s"] if record.duration is not None else []
    if item.words is not None:
        head.append(f"{item.words.errors} errors on {item.words.reference} words")
    labels = []
    for field, value in record.reference.items():
        if field == "Transcript" or field not in record.prediction:
            continue
        said = record.prediction[field]
        probability = record.probabilities.get(field, {}).get(str(said))
        sure = f" {percent(probability)} %" if probability is not None else ""
        kind = "wrong" if field in wrong else "label"
        labels.append(
            f'<span class="{kind}">{field}: {escape(str(said))}{sure} '
            f"(reference {escape(str(value))})</span>"
        )
    body = ""
    if record.error is not None:
        body += f'<p class="wrong">{escape(record.error)}</p>'
    if item.reference_text or item.hypothesis_text:
        body += f"<p>{_alignment(item.reference_text, item.hypothesis_text)}</p>"
    if labels:
        body += f"<p>{' · '.join(labels)}</p>"
    source = audio_data_uri(record.audio, trusted=record.error is None)
    player = (
        f'<audio controls preload="none" src="{source}"></audio>'
        if source
        else '<p class="label">The recording cannot be played.</p>'
    )
    heading = "".join(f"<span>{part}</span>" for part in head)
    return f"<article><header>{heading}</header>{body}{player}</article>"


def _alignment(reference: str, hypothesis: str) -> str:
    parts = []
    for _, ref, hyp in aligned(reference, hypothesis):
        if ref == hyp:
            parts.append(escape(ref))
            continue
        if ref:
            parts.append(f"<del>{escape(ref)}</del>")
        if hyp:
            parts.append(f"<ins>{escape(hyp)}</ins>")
    return " ".join(parts)
