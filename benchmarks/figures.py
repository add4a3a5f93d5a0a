"""Checks that every measured figure in the documentation is one of the committed results.

    python benchmarks/figures.py

`docs/figures.yaml` says of each sentence or table row which values it quotes: a path in a JSON file
of `eval/results/`, or a pattern in a text of `benchmarks/results/`. The sentence is written anew
with the values as they are, and has to stand in its page, word for word. Sections that are listed
as `complete` may hold no other number, and a paragraph with a number that links to a result has to
hold such a sentence. The tables of the bundled checkpoint's card are made anew and compared as
well. The site's benchmark page is made from the files, and needs no check.
Prints what differs, and ends with 1 if anything does.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
QUOTES = "docs/figures.yaml"
CARD = "speechmeta/checkpoints/bundled/README.md"

_NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?!\w)")
_RESULT = re.compile(r"\]\([^)]*(?:eval|benchmarks)/results/[^)]+\)")
_LINK = re.compile(r"\]\([^)]*\)|`[^`]*`")


_ENTRIES: dict[str, tuple[set[str], set[str]]] = {
    "quotes": ({"page", "text", "values"}, {"from", "rows"}),
    "complete": ({"page", "section"}, {"no_measurements"}),
    "settings": ({"page", "text"}, set()),
}
"""What entries of each part of `QUOTES` have to say, and what they may."""


class NotFoundInResults(Exception):
    """A quoted value is not where it is said to be."""


@cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _json(path: Path) -> Any:
    return json.loads(_text(path))


def value(root: Path, spec: str, file: str) -> str:
    """One value as it is written in a page.

    Args:
        spec: `PATH | OP | ...`, PATH being dotted keys of a JSON file, or `~PATTERN` whose group is
            the value in a text. Another file may come first: `FILE#PATH`. OPs: `%1` a share as a
            percentage with one digit, `.1` one digit, `/1000` divided, `,` thousands set apart.

    Raises:
        NotFoundInResults: there is no such value.
    """
    head, *steps = (part.strip() for part in spec.split(" | "))
    if "#" in head:
        file, head = head.split("#", 1)
    source = root / file
    if head.startswith("~"):
        found = re.search(head[1:], _text(source), re.MULTILINE)
        if found is None:
            raise NotFoundInResults(f"{file} has nothing like {head[1:]!r}")
        raw: Any = found[1]
    else:
        raw = _json(source)
        for key in re.split(r"(?<!\\)\.", head):
            key = key.replace("\\.", ".")
            try:
                raw = raw[int(key)] if isinstance(raw, list) else raw[key]
            except (KeyError, IndexError, ValueError, TypeError):
                raise NotFoundInResults(f"{file} has no {head}") from None
    for step in steps:
        raw = _applied(step, raw)
    return str(raw)


def _applied(step: str, raw: Any) -> Any:
    if step == ",":
        return f"{int(raw):,}"
    # Decimal, as people round: 5.25 is 5.3, where a float's 5.25 would be 5.2.
    number = Decimal(str(raw))
    if step.startswith("/"):
        return number / Decimal(step[1:])
    if step.startswith(("%", ".")):
        number *= 100 if step[0] == "%" else 1
        return number.quantize(Decimal(10) ** -int(step[1:]), rounding=ROUND_HALF_UP)
    raise ValueError(f"{QUOTES}: {step!r} is nothing that can be done with a value")


def misplaced(listed: Mapping[str, Any]) -> Iterator[str]:
    """Entries that are not what their part of `QUOTES` holds."""
    for part, (needed, allowed) in _ENTRIES.items():
        for item in listed.get(part) or []:
            missing, strange = needed - item.keys(), item.keys() - needed - allowed
            if not missing and not strange:
                continue
            says = [f"has no {name}" for name in sorted(missing)]
            says += [f"cannot have {name}" for name in sorted(strange)]
            about = item.get("text") or item.get("section") or item.get("page")
            yield f"{QUOTES}: under {part}, this {' and '.join(says)}: {about}"


def quotes(root: Path, listed: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(page, the sentence as it has to be, "" or why its values are missing)."""
    for item in listed["quotes"]:
        rows = item.get("rows", [[]])
        for row in rows:
            text, specs = str(item["text"]), [str(spec) for spec in item["values"]]
            for place, word in enumerate(row):
                text = text.replace(f"${place}", word)
                specs = [spec.replace(f"${place}", word) for spec in specs]
            try:
                filled = text.format(*(value(root, spec, item.get("from", "")) for spec in specs))
            except NotFoundInResults as error:
                yield item["page"], text, str(error)
            else:
                yield item["page"], filled, ""


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    if found is None:
        raise NotFoundInResults(f"there is no section {title!r}")
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def faults(root: Path = ROOT) -> list[str]:
    """What is wrong, one line each."""
    _text.cache_clear()
    _json.cache_clear()
    listed = yaml.safe_load(_text(root / QUOTES))
    if wrong := list(misplaced(listed)):
        return wrong
    found: dict[str, list[str]] = {}
    for page, text, missing in quotes(root, listed):
        if missing:
            wrong.append(f"{page}: {text}: {missing}")
        elif text not in _text(root / page):
            wrong.append(f"{page} does not say: {text}")
        else:
            found.setdefault(page, []).append(text)
    for item in listed["complete"]:
        page = item["page"]
        try:
            rest = section(_text(root / page), item["section"])
        except NotFoundInResults as error:
            wrong.append(f"{page}: {error}")
            continue
        for text in [*found.get(page, []), *map(str, item.get("no_measurements", []))]:
            rest = rest.replace(text, "")
        for line in _LINK.sub("]", rest).splitlines():
            wrong += [f"{page}: {n} is in no result: {line}" for n in _NUMBER.findall(line)]
    for item in listed["settings"]:
        found.setdefault(item["page"], []).append(str(item["text"]))
    return wrong + unquoted(root, found) + card_faults(root)


def unquoted(root: Path, found: Mapping[str, list[str]]) -> list[str]:
    """Paragraphs with a number and a link to a result, no sentence of which is known."""
    wrong = []
    for path in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        page = path.relative_to(root).as_posix()
        # A table belongs to the paragraph above it.
        for part in re.split(r"\n\s*\n(?!\|)", _text(path)):
            told = _RESULT.search(part) and _NUMBER.search(_LINK.sub("]", part))
            if told and not any(text in part for text in found.get(page, [])):
                wrong.append(f"{page}: nothing of this is in {QUOTES}: {part.strip()[:100]}")
    return wrong


def card_faults(root: Path) -> list[str]:
    """The tables of the checkpoint's card that the reports would not give."""
    sys.path.insert(0, str(Path(__file__).parent))
    import card

    text = _text(root / CARD)
    reports = {
        name: _json(root / "eval" / "results" / f"bundled-test{ending}.json")
        for name, ending in (("open", ""), ("research", "-research"), ("telephone", "-telephone"))
    }
    tables = {f"{name} labels": card.label_table(report) for name, report in reports.items()}
    for name in ("open", "research"):
        tables[f"{name} classes"] = card.class_table(reports[name])
    report = reports["open"]
    tables["groups"] = card.group_table(report, card.groups(report), "group")
    tables["sources"] = card.group_table(report, report["sources"], "source")
    return [
        f"{CARD}: the table of {name} is not that of the reports; run benchmarks/card.py"
        for name, table in tables.items()
        if table not in text
    ]


def main() -> int:
    """Prints the faults."""
    wrong = faults()
    print("\n".join(wrong) if wrong else "every quoted figure is in the committed results")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
