"""Writes the bundled checkpoint's model card and NOTICE from measured reports and the manifest.

    speechmeta eval manifest --data ../shared/speech/dev.jsonl --split test -o out/open
    speechmeta eval manifest --data ../shared/speech/dev.jsonl --split test --heads research \
      --fields SpeechActivity,Gender,Age,Accent,Emotion -o out/research
    speechmeta eval manifest --data ../shared/speech/dev.jsonl --split test --telephone \
      -o out/telephone
    python benchmarks/words.py ORIGINAL FOLDER --data ../shared/speech | tail -1 > out/words.json
    python benchmarks/card.py --open out/open/report.json --research out/research/report.json \
      --telephone out/telephone/report.json --words out/words.json \
      --manifest ../shared/speech/train.jsonl FOLDER

FOLDER is the checkpoint's. No figure in the card is typed in by hand. `--telephone` and `--words`
may be missing; the card then says that this was not measured.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

TEMPLATES = Path(__file__).parents[1] / "recipes" / "whisper_meta"
LABELS = ("Gender", "Age", "Accent", "Emotion")


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def interval(pair: Sequence[float] | None) -> str:
    return "" if not pair else f" ({100 * pair[0]:.0f} to {100 * pair[1]:.0f})"


def label_table(report: Mapping[str, Any]) -> str:
    """Accuracy, UAR, calibration and coverage by field."""
    activity = report["speech_activity"]
    rows = [
        "| field | accuracy % (95 % interval) | UAR % (95 % interval) | calibration error % "
        "(by chance) | answered % | clips |",
        "|---|---|---|---|---|---|",
        f"| SpeechActivity | {percent(activity['accuracy'])}"
        f"{interval(activity['accuracy_interval'])} | - | - | 100 | {activity['n']} |",
    ]
    for name in LABELS:
        label = report["labels"].get(name)
        if label:
            rows.append(
                f"| {name} | {percent(label['accuracy'])}{interval(label['accuracy_interval'])} "
                f"| {percent(label['uar'])}{interval(label['uar_interval'])} "
                f"| {percent(label['ece'])} ({percent(label['ece_by_chance'])}) "
                f"| {percent(label['coverage'], 0)} | {label['n']} |"
            )
    return "\n".join(rows)


def class_table(report: Mapping[str, Any]) -> str:
    """Recall by class: what the averages hide."""
    rows = ["| field | class | recall % | precision % | clips |", "|---|---|---|---|---|"]
    for name in LABELS:
        for label, item in (report["labels"].get(name) or {}).get("per_class", {}).items():
            if item["support"]:
                rows.append(
                    f"| {name} | {label} | {percent(item['recall'], 0)} "
                    f"| {percent(item['precision'], 0)} | {item['support']} |"
                )
    return "\n".join(rows)


def _accuracy(item: Mapping[str, Any], field: str) -> str:
    found = item["accuracy"].get(field)
    return percent(found["accuracy"]) if found and found["n"] else "-"


def group_table(report: Mapping[str, Any], kinds: Mapping[str, Any], head: str) -> str:
    """Words and labels by group of speakers, or by source."""
    fields = ("SpeechActivity", *LABELS)
    rows = [
        f"| {head} | clips | speakers | WER % | " + " | ".join(fields) + " |",
        "|---|---|---|---|" + "---|" * len(fields),
    ]
    for name, item in kinds.items():
        cells = " | ".join(_accuracy(item, field) for field in fields)
        rows.append(
            f"| {name} | {item['n']} | {item['speakers']} | {percent(item.get('wer'))} | {cells} |"
        )
    return "\n".join(rows)


def groups(report: Mapping[str, Any]) -> dict[str, Any]:
    """All groups of speakers with a name that says which trait."""
    return {
        f"{trait}: {name}": item
        for trait, found in report["groups"].items()
        for name, item in found["groups"].items()
    }


def words(measured: Mapping[str, Any] | None, report: Mapping[str, Any]) -> str:
    """Word errors by source, as `benchmarks/words.py` measured them, or those of the report."""
    if measured is None:
        if report["wer"] is None:
            return "Not measured here."
        silent = report["non_speech"]
        return (
            f"WER {percent(report['wer'])} %{interval(report['wer_interval'])}, "
            f"CER {percent(report['cer'])} %; {silent['with_words']} of {silent['n']} clips "
            "without speech got words."
        )
    runs = measured["table"]
    names = sorted({name for found in runs.values() for name in found})
    rows = [
        "| source | clips | " + " | ".join(runs) + " |",
        "|---|---|" + "---|" * len(runs),
    ]
    for name in names:
        found = [run.get(name, {}) for run in runs.values()]
        cells = [one.get("wer", one.get("with words behind <|nospeech|>")) for one in found]
        count = next((int(one["clips"]) for one in found if "clips" in one), "-")
        shown = " | ".join("-" if cell is None else f"{cell:.1f}" for cell in cells)
        rows.append(f"| {name} | {count} | {shown} |")
    return "\n".join(rows)


def emotion_on(report: Mapping[str, Any], source: str) -> str:
    """Emotion's accuracy on one source, with its number of clips."""
    found = report["sources"].get(source, {}).get("accuracy", {}).get("Emotion")
    return f"{percent(found['accuracy'])} % of {found['n']} clips" if found else "not measured"


def sources(manifest: Path) -> dict[bool, dict[str, list[str]]]:
    """By commercial or not: data set and its licences, as the manifest states them.

    Raises:
        SystemExit: a data set is not among the attributions.
    """
    licences: dict[bool, dict[str, Counter[str]]] = {
        True: defaultdict(Counter),
        False: defaultdict(Counter),
    }
    for line in manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        licences[bool(row["commercial"])][row["dataset"]][row["licence"]] += 1
    unknown = {name for found in licences.values() for name in found} - set(_attributions())
    if unknown:
        raise SystemExit(f"attributions.yaml lacks {', '.join(sorted(unknown))}")
    return {
        free: {name: [text for text, _ in counts.most_common()] for name, counts in found.items()}
        for free, found in licences.items()
    }


def _attributions() -> dict[str, str]:
    """By data set, who made it."""
    text = (TEMPLATES / "attributions.yaml").read_text(encoding="utf-8")
    found: dict[str, str] = yaml.safe_load(text)
    return found


def source_lines(found: Mapping[str, Sequence[str]]) -> str:
    """A list of data sets with their makers and licences."""
    makers = _attributions()
    return "\n".join(
        f"- {name}: {makers[name]}\n  Licence: {'; '.join(licences)}"
        for name, licences in sorted(found.items())
    )


def heads_table(config: Mapping[str, Any]) -> str:
    """Temperatures and thresholds, as the config has them."""
    rows = [
        "| heads | field | temperature | left out below | under a second: temperature, below |",
        "|---|---|---|---|---|",
    ]
    for name, item in config["heads"].items():
        for field, told in item["fields"].items():
            short = told.get("short")
            brief = f"{short['temperature']}, {short['abstain_below']}" if short else "-"
            rows.append(
                f"| {name} | {field} | {told['temperature']} | {told['abstain_below']} | {brief} |"
            )
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes README.md and NOTICE into the checkpoint's folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("open", "research"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="a report.json")
    parser.add_argument("--telephone", type=Path, help="a report.json")
    parser.add_argument("--words", type=Path, help="the last line of benchmarks/words.py")
    parser.add_argument("--manifest", type=Path, required=True, help="of the training clips")
    parser.add_argument("folder", type=Path, help="the checkpoint")
    given = parser.parse_args(arguments)
    reports = {
        name: json.loads(getattr(given, name).read_text(encoding="utf-8"))
        for name in ("open", "research", "telephone")
        if getattr(given, name) is not None
    }
    words_table = None if given.words is None else json.loads(given.words.read_text("utf-8"))
    config = json.loads((given.folder / "config.json").read_text(encoding="utf-8"))
    found = sources(given.manifest)
    megabytes = sum(path.stat().st_size for path in given.folder.iterdir()) / 1e6
    card = (
        (TEMPLATES / "card.md")
        .read_text(encoding="utf-8")
        .format(
            clips=reports["open"]["n"],
            hours=f"{reports['open']['audio_seconds'] / 3600:.1f}",
            megabytes=f"{megabytes:.0f}",
            words=words(words_table, reports["open"]),
            open_table=label_table(reports["open"]),
            research_table=label_table(reports["research"]),
            telephone_table=label_table(reports["telephone"])
            if "telephone" in reports
            else "not measured here.",
            open_classes=class_table(reports["open"]),
            research_classes=class_table(reports["research"]),
            open_groups=group_table(reports["open"], groups(reports["open"]), "group"),
            open_sources=group_table(reports["open"], reports["open"]["sources"], "source"),
            open_ravdess=emotion_on(reports["open"], "ravdess"),
            research_ravdess=emotion_on(reports["research"], "ravdess"),
            heads=heads_table(config),
            command=reports["open"]["command"],
        )
    )
    notice = (TEMPLATES / "notice.txt").read_text(encoding="utf-8")
    notice = notice.format(open=source_lines(found[True]), research=source_lines(found[False]))
    (given.folder / "README.md").write_text(card, encoding="utf-8")
    (given.folder / "NOTICE").write_text(notice, encoding="utf-8")
    print(card)
    measured = {
        name: {
            "wer": report.get("wer"),
            "speech_activity": report["speech_activity"]["accuracy"],
            **{field: item and item["uar"] for field, item in report["labels"].items()},
        }
        for name, report in reports.items()
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
