"""The tables of a report, as rows of text that the terminal, Markdown and HTML share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .published_table import COLUMNS, DATASETS

NOTHING = "n/a"

VALUES_SHOWN = 12
"""How many unmapped values of a label a table lists; the JSON has all."""


@dataclass(frozen=True)
class Table:
    """A table of text; the first column is left-aligned, the others are numbers."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def percent(value: float | None) -> str:
    """A fraction in percent, two decimals."""
    return NOTHING if value is None else f"{100 * value:.2f}"


def spread(limits: Sequence[float] | None) -> str:
    """An interval of fractions in percent."""
    return NOTHING if not limits else f"{100 * limits[0]:.2f} to {100 * limits[1]:.2f}"


def number(value: float | None, digits: int = 3) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was run on what, as (name, value)."""
    data, system = report["dataset"], report["system"]
    split = f", split {data['split']}" if data["split"] else ""
    rows = [
        ("System", f"{system['name']} ({system['architecture']})"),
        ("Data", f"{data['name']}{split}: {data['source']}"),
        ("Decoding", report["decoding"]),
        ("Clips", f"{report['n']}, failed: {report['errors']} (counted as wrong)"),
    ]
    if "audio_seconds" in report:
        rows[-1] = (
            "Clips",
            f"{report['n']} of {report['speakers']} speakers, "
            f"{duration(report['audio_seconds'])} h; failed: {report['errors']} "
            "(counted as wrong)",
        )
    if report.get("condition"):
        rows.append(("Condition", report["condition"]))
    rows.append(("Normaliser", str(report["normalizer"])))
    where = ", ".join(str(system[key]) for key in ("device", "dtype") if system.get(key))
    if where:
        rows.append(("Device", where))
    if report.get("command"):
        rows.append(("Command", report["command"]))
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    rows += [("Date", report["created"]), ("Versions", versions)]
    return rows


def summary_tables(report: Mapping[str, Any]) -> list[Table]:
    """The numbers that come first."""
    if "protocol" in report:
        return [_teacher_forced(report)]
    tables = [_text(report), _labels(report), _other(report)]
    return [table for table in tables if table.rows]


def detail_tables(report: Mapping[str, Any]) -> list[Table]:
    """Results by source, group and fold, and what became of the labels."""
    tables = []
    if len(report.get("sources", {})) > 1:
        tables.append(_slices("By source", report["sources"]))
    for name, item in report.get("groups", {}).items():
        note = "; ".join(
            f"{'WER' if measure == 'wer' else measure + ' accuracy'}: gap of "
            f"{percent(gap['gap'])} points between {gap['best']} (best) and {gap['worst']}"
            for measure, gap in item["gaps"].items()
        )
        tables.append(_slices(f"By {name.lower()}", item["groups"], note))
    if report.get("folds"):
        tables.append(_folds(report["folds"]))
    tables += [_confusion(name, item) for name, item in report.get("labels", {}).items()]
    if isinstance(report.get("labels"), Mapping):
        tables += [
            _per_class(name, item) for name, item in report["labels"].items() if "per_class" in item
        ]
    tables = [table for table in tables if table.rows]
    mapping = _mapping(report["dataset"]["label_maps"])
    return [*tables, mapping] if mapping.rows else tables


def published(report: Mapping[str, Any]) -> list[Table]:
    """SpeechLLM's table with the run in it; empty where it is about other data sets."""
    prefix = DATASETS.get(report["dataset"]["name"])
    if prefix is None:
        return []
    columns = {name: title for name, title in COLUMNS.items() if name.startswith(prefix)}
    rows: list[tuple[str, ...]] = []
    run = _run_in_columns(report)
    if run:
        how = "mean of utterances" if "protocol" in report else "corpus WER"
        cells = [f"this run: {report['system']['name']} ({report['decoding']}, {how})"]
        rows.append((*cells, *(percent(run.get(name)) for name in columns)))
    for row in report["published"]["rows"]:
        cells = [row["checkpoint"]]
        for name in columns:
            cells.append(f"{row[name]:.2f}" if name.endswith("wer") else percent(row[name]))
        rows.append(tuple(cells))
    header = ("Checkpoint", *(title.removesuffix(" %") + ", %" for title in columns.values()))
    return [Table("Published SpeechLLM table", header, rows, report["published"]["protocol"])]


def _run_in_columns(report: Mapping[str, Any]) -> dict[str, float | None]:
    name, split = report["dataset"]["name"], report["dataset"]["split"]
    if name == "librispeech" and split in ("test-clean", "test-other"):
        prefix = "librispeech_" + split.removeprefix("test-")
        fields: tuple[str, ...] = ("Gender",)
    elif name == "commonvoice" and split == "test":
        prefix, fields = "commonvoice", ("Gender", "Age", "Accent")
    else:
        return {}
    wer = report["mean_utterance_wer"] if "protocol" in report else report["wer"]
    values = {f"{prefix}_wer": wer}
    for field in fields:
        if field in report["labels"]:
            values[f"{prefix}_{field.lower()}"] = report["labels"][field]["accuracy"]
    return values


def conventions(report: Mapping[str, Any]) -> list[str]:
    """How the numbers were counted, one sentence each."""
    if "protocol" in report:
        return [report["protocol"]]
    abstained = (
        "Clips with a null label are left out of that label's measures; failed clips are not."
        if report["ignore_abstained"]
        else "A null label (abstained, or judged to be no speech) counts as wrong."
    )
    return [
        "Every clip was decoded freely, as in use; nothing of the reference was shown."
        if report["decoding"] == "free-running"
        else f"Decoding is {report['decoding']}.",
        "WER and CER are of the whole corpus: summed edits by summed reference length, after "
        f"the normaliser: {report['normalizer_description']}.",
        "A failed clip counts all its words as deleted and its labels as wrong.",
        abstained + " Coverage is the share of labelled clips that got a label.",
        "UAR and macro F1 average over the classes that occur in the references.",
        "ECE: 15 equal-width bins of the most probable class's probability; AURC: area under "
        "the risk-coverage curve.",
        "Intervals: 95 %, percentile bootstrap of 1000 resamples over speakers (over clips "
        "where the speaker is unknown).",
        "Groups of fewer than 20 clips are shown, but take no part in the gaps.",
        "RTFx: seconds of audio by seconds of the system's work, decoding of files excluded.",
    ]


def _text(report: Mapping[str, Any]) -> Table:
    rows = []
    for name, key, counts in (("WER", "wer", "words"), ("CER", "cer", "characters")):
        if report[key] is not None:
            item = report[counts]
            rows.append(
                (
                    name,
                    percent(report[key]),
                    spread(report[f"{key}_interval"]),
                    *(
                        str(item[part])
                        for part in ("substitutions", "deletions", "insertions", "reference")
                    ),
                )
            )
    header = ("", "%", "95 %", "S", "D", "I", "Reference")
    clips = report["words"]["clips"]
    empty, silent = report["empty_references"], report["non_speech"]
    note = f"{clips} clips with a transcript."
    if empty["n"]:
        note += (
            f" {empty['n']} clips have a reference that is empty after normalisation and are left "
            f"out; {empty['with_words']} of them got words ({empty['words']})."
        )
    if silent["n"]:
        note += (
            f" Of {silent['n']} clips without speech, {silent['with_words']} got words "
            f"({silent['words']})."
        )
    return Table("Words", header, rows, note)


def _labels(report: Mapping[str, Any]) -> Table:
    header = (
        "", "n", "Accuracy %", "95 %", "UAR %", "95 %", "Macro F1 %", "ECE %",
        "by chance %", "AURC %",
        "Coverage %", "Majority %",
    )  # fmt: skip
    rows = [
        (
            name,
            str(item["n"]),
            percent(item["accuracy"]),
            spread(item["accuracy_interval"]),
            percent(item["uar"]),
            spread(item["uar_interval"]),
            percent(item["macro_f1"]),
            percent(item["ece"]),
            percent(item.get("ece_by_chance")),
            percent(item["risk"]["aurc"] if item["risk"] else None),
            percent(item["coverage"]),
            percent(item["majority_accuracy"]),
        )
        for name, item in report["labels"].items()
    ]
    note = (
        "Majority: accuracy of always naming the commonest class. By chance: the ECE that a "
        "perfectly calibrated system with the same confidences would have on so few clips."
    )
    return Table("Labels", header, rows, note)


def _other(report: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, ...]] = []
    speech, valid = report["speech_activity"], report["valid_json"]
    if speech is not None:
        rows += [
            ("SpeechActivity precision %", percent(speech["precision"])),
            ("SpeechActivity recall %", percent(speech["recall"])),
            ("SpeechActivity specificity %", percent(speech["specificity"])),
            (
                "SpeechActivity n (speech, non-speech)",
                f"{speech['n']} ({speech['speech']}, {speech['non_speech']})",
            ),
        ]
    if valid is not None:
        text = f"{percent(valid['share'])} of {valid['n']}"
        if report["errors"]:
            text += f", {percent(valid['share_of_results'])} of those with a result"
        rows.append(("Valid JSON %", text))
    rows += [
        ("RTFx", number(report["rtfx"], 1)),
        ("Peak memory of the process, MB", number(report.get("peak_memory_mb"), 0)),
        ("Transcripts cut by the budget", str(report["truncated_transcripts"])),
        ("Transcripts cut in a loop", str(report["transcript_loops"])),
    ]
    return Table("Speech activity, format, speed", ("", ""), rows)


def _teacher_forced(report: Mapping[str, Any]) -> Table:
    rows = [
        (
            "Mean of per-utterance WER %",
            percent(report["mean_utterance_wer"]),
            str(report["utterances"]),
        )
    ]
    rows += [
        (f"{name} accuracy %", percent(item["accuracy"]), str(item["n"]))
        for name, item in report["labels"].items()
    ]
    return Table("Teacher-forced diagnostic", ("", "%", "n"), rows, report["protocol"])


def _slices(title: str, slices: Mapping[str, Any], note: str = "") -> Table:
    fields = list(dict.fromkeys(f for item in slices.values() for f in item["accuracy"]))
    header = (
        "", "Clips", "Failed", "Speakers", "WER %", "95 %", "Words",
        *(f"{field} %" for field in fields),
    )  # fmt: skip
    rows = []
    for name, item in slices.items():
        accuracies = []
        for field in fields:
            cell = item["accuracy"].get(field)
            accuracies.append(f"{percent(cell['accuracy'])} ({cell['n']})" if cell else NOTHING)
        rows.append(
            (
                name,
                str(item["n"]),
                str(item["errors"]),
                str(item["speakers"]),
                percent(item["wer"]),
                spread(item["wer_interval"]),
                str(item["words"]),
                *accuracies,
            )
        )
    return Table(title, header, rows, note)


def _folds(folds: Mapping[str, Any]) -> Table:
    rows = [
        (fold, field, str(item["n"]), percent(item["accuracy"]), percent(item["uar"]))
        for fold, fields in folds["folds"].items()
        for field, item in fields.items()
    ]
    for field, item in folds["mean"].items():
        cells = [
            f"{percent(item[key]['mean'])} (sd {percent(item[key]['sd'])})"
            for key in ("accuracy", "uar")
        ]
        rows.append(("mean of folds", field, "", *cells))
    header = (folds["group"].capitalize(), "Label", "n", "Accuracy (WA) %", "UAR (UA) %")
    return Table("Folds", header, rows)


def _confusion(name: str, item: Mapping[str, Any]) -> Table:
    if "confusion" not in item:
        return Table("", (), [])
    matrix = item["confusion"]
    rows = [
        (label, *(str(count) for count in counts))
        for label, counts in zip(matrix["rows"], matrix["counts"], strict=True)
        if sum(counts)
    ]
    header = ("reference \\ predicted", *matrix["columns"])
    return Table(f"{name}: confusion", header, rows)


def _per_class(name: str, item: Mapping[str, Any]) -> Table:
    rows = [
        (
            label,
            str(cell["support"]),
            str(cell["predicted"]),
            percent(cell["recall"]),
            percent(cell["precision"]),
            percent(cell["f1"]),
        )
        for label, cell in item["per_class"].items()
        if cell["support"] or cell["predicted"]
    ]
    header = ("", "Support", "Predicted", "Recall %", "Precision %", "F1 %")
    return Table(f"{name}: by class", header, rows)


def _mapping(maps: Mapping[str, Any]) -> Table:
    rows = []
    for field, item in maps.items():
        for outcome in ("no_class", "conflicting", "unknown"):
            listed = item[outcome]
            if listed:
                first = list(listed.items())[:VALUES_SHOWN]
                shown = ", ".join(f"{value} ({count})" for value, count in first)
                left = len(listed) - len(first)
                more = f" and {left} more" if left else ""
                rows.append(
                    (field, outcome.replace("_", " "), str(sum(listed.values())), shown + more)
                )
    header = ("Label", "Why", "Clips", "Source values")
    note = "Source labels that were mapped to nothing; the clips count for the other measures."
    return Table("Labels without a class", header, rows, note)
