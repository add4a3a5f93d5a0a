"""What a folder run found: label distributions, talk, and failures, from its journal."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechmeta.batch.journal import Counts, Journal, believed, journal_path
from speechmeta.errors import UsageError
from speechmeta.schema import LABEL_FIELDS
from speechmeta.writers.files import printable

FAILURES_SHOWN = 20


@dataclass
class Summary:
    """Sums over the finished files of a run.

    Attributes:
        missing: files that the run has not come to.
        incomplete: files with a result that lacks a part, such as transcripts.
        other_files: files in the folder that are not recordings, by kind.
        labels: for each label field, seconds of turns by value; "not sure" where the
            label was left open.
        failures: error type to number of files.
        examples: the first failures as (path, type, message).
        alerts: for each rule, the calls with an alert and the alerts.
    """

    files: int = 0
    failed: int = 0
    missing: int = 0
    incomplete: int = 0
    other_files: dict[str, int] = field(default_factory=dict)
    turns: int = 0
    audio_seconds: float = 0.0
    talk_seconds: float = 0.0
    silence_seconds: float = 0.0
    overlap_seconds: float = 0.0
    interruptions: int = 0
    labels: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, str, str]] = field(default_factory=list)
    alerts: dict[str, tuple[int, int]] = field(default_factory=dict)

    def expect(self, rules: Iterable[str]) -> None:
        """Names the rules that were asked about, so that those without an alert are counted."""
        self.alerts = {name: self.alerts.get(name, (0, 0)) for name in rules}

    def _alerts_as_json(self) -> dict[str, dict[str, int]]:
        return {
            name: {"calls": calls, "alerts": total} for name, (calls, total) in self.alerts.items()
        }

    def add(self, data: dict[str, Any]) -> None:
        """Adds one line of `results.jsonl`."""
        if "error" in data:
            error = data["error"]
            self.failed += 1
            self.failures[error["type"]] += 1
            if len(self.examples) < FAILURES_SHOWN:
                self.examples.append((data["audio"]["path"], error["type"], error["message"]))
            return
        self.files += 1
        lacking = {f"no {failure['part']}": failure for failure in data.get("failures", [])}
        self.incomplete += bool(lacking)
        for kind, failure in lacking.items():
            self.failures[kind] += 1
            if len(self.examples) < FAILURES_SHOWN:
                self.examples.append((data["audio"]["path"], kind, failure["message"]))
        self.turns += len(data["turns"])
        self.audio_seconds += data["audio"]["duration"]
        measures = data["conversation"]
        self.talk_seconds += measures["talk_seconds"]
        self.silence_seconds += measures["silence_seconds"]
        self.overlap_seconds += measures["overlap_seconds"]
        self.interruptions += len(measures["interruptions"])
        found = Counter(alert["rule"] for alert in data.get("alerts") or [])
        for name, count in found.items():
            calls, total = self.alerts.get(name, (0, 0))
            self.alerts[name] = (calls + 1, total + count)
        for turn in data["turns"]:
            if turn.get("SpeechActivity") is False:
                continue
            for name in LABEL_FIELDS:
                if name in turn:
                    value = turn[name] or "not sure"
                    seconds = self.labels.setdefault(name, {})
                    seconds[value] = seconds.get(value, 0.0) + turn["end"] - turn["start"]

    def shares(self, name: str) -> dict[str, float]:
        """The share of talk of each value of a label, largest first."""
        seconds = self.labels.get(name, {})
        total = sum(seconds.values()) or 1.0
        ordered = sorted(seconds.items(), key=lambda item: (-item[1], item[0]))
        return {value: part / total for value, part in ordered}

    def as_json(self) -> dict[str, Any]:
        """The summary as plain JSON types."""
        return {
            "files": self.files,
            "failed": self.failed,
            "missing": self.missing,
            "incomplete": self.incomplete,
            "other_files": self.other_files,
            "turns": self.turns,
            "audio_seconds": round(self.audio_seconds, 3),
            "talk_seconds": round(self.talk_seconds, 3),
            "silence_seconds": round(self.silence_seconds, 3),
            "overlap_seconds": round(self.overlap_seconds, 3),
            "interruptions": self.interruptions,
            "labels": {
                name: {value: round(share, 4) for value, share in self.shares(name).items()}
                for name in LABEL_FIELDS
                if name in self.labels
            },
            **({"alerts": self._alerts_as_json()} if self.alerts else {}),
            "failures": dict(self.failures.most_common()),
        }


def summarize(lines: Iterable[str], rules: Iterable[str] = ()) -> Summary:
    """The summary of the lines of a `results.jsonl`; `rules` are the names of its alert rules."""
    summary = Summary()
    summary.expect(rules)
    for line in lines:
        summary.add(json.loads(line))
    return summary


def check_run(out: Path) -> None:
    """Sees that a folder holds a run.

    Raises:
        UsageError: it holds none.
    """
    if not journal_path(out).exists():
        raise UsageError(
            f"{printable(out)} holds no folder run", "give the -o folder of `speechmeta batch`"
        )


def summary_of(output: str | os.PathLike[str]) -> Summary:
    """The summary of the run that an output folder holds, finished or not.

    Raises:
        UsageError: the folder holds none.
    """
    out = Path(output)
    check_run(out)
    with Journal(out) as journal, believed(out):
        rules = journal.settings.get("rules") or {"rule": []}
        summary = summarize(journal.documents(), [rule["name"] for rule in rules["rule"]])
        counts: Counts = journal.counts()
        summary.other_files = journal.others()
    summary.missing = counts.missing
    return summary
