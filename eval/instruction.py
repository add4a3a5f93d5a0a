"""Instruction following about recordings: Dynamic-SUPERB, SAKURA and Speech-IFEval styles.

Runs a chat model over a local JSON Lines manifest and scores its free answers. A line has
`audio` (a path, or a list), `instruction`, and by its `task`:

- `classification` (Dynamic-SUPERB): `choices` and `label`; optional `name` of the task.
- `sakura`: `choices`, `label`, `hop` (`single` or `multi`), optional `name` of the track and
  `pair`, equal for the two questions about one recording.
- `ifeval` (Speech-IFEval): `constraints`, a list such as [{"type": "max_words", "value": 30}].

The data sets themselves are not part of speechmeta; these are their ways of asking and
scoring, written anew. Scores of another implementation may differ in how answers are read.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from speechmeta.errors import DatasetError, SpeechMetaError, UsageError

from .metrics.constraints import check_constraint, known_constraints
from .reports.instruction_published import published_instruction_table

TASKS = ("classification", "sakura", "ifeval")


class Chats(Protocol):
    """What is measured; `speechmeta.ChatModel` is one."""

    name: str

    def chat(self, messages: Sequence[Any], **options: Any) -> Any: ...


@dataclass(frozen=True)
class Item:
    """One question of a manifest.

    Attributes:
        number: its line.
        task: one of `TASKS`.
        name: a finer name for the report, such as a Dynamic-SUPERB task or a SAKURA track.
        audios: paths.
        instruction: what is asked.
        choices, label: of classification and SAKURA.
        hop, pair: of SAKURA.
        constraints: of Speech-IFEval.
    """

    number: int
    task: str
    name: str
    audios: tuple[str, ...]
    instruction: str
    choices: tuple[str, ...] = ()
    label: str = ""
    hop: str = "single"
    pair: str = ""
    constraints: tuple[dict[str, Any], ...] = ()


@dataclass
class Answer:
    """What a system said to an item.

    Attributes:
        text: the answer; "" where it failed.
        error: why it failed, or "".
        chosen: the choice that the answer names, None where it names none or several.
        passed: for each constraint whether it holds.
    """

    item: Item
    text: str
    error: str = ""
    chosen: str | None = None
    passed: list[bool] = field(default_factory=list)

    @property
    def correct(self) -> bool:
        if self.item.task == "ifeval":
            return bool(self.passed) and all(self.passed)
        return self.chosen is not None and self.chosen == self.item.label


def read_items(path: Path) -> list[Item]:
    """Reads a manifest; audio paths are relative to its folder.

    Raises:
        DatasetError: it cannot be read, or a line is not what its task needs.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}", "check --data") from error
    items = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            items.append(_item(json.loads(line), number, path.parent))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(
                f"{path}, line {number}: {type(error).__name__}: {error}",
                "a line has audio, instruction, task, and choices and label or constraints",
            ) from error
    if not items:
        raise DatasetError(f"{path} has no lines", "check --data")
    return items


def _item(row: dict[str, Any], number: int, folder: Path) -> Item:
    task = row.get("task") or ("ifeval" if "constraints" in row else "classification")
    if task not in TASKS:
        raise ValueError(f"the task is {task!r}, known are {', '.join(TASKS)}")
    audios = row["audio"] if isinstance(row["audio"], list) else [row["audio"]]
    common: dict[str, Any] = {
        "number": number,
        "task": task,
        "name": str(row.get("name") or task),
        "audios": tuple(str(folder / audio) for audio in audios),
        "instruction": str(row["instruction"]),
    }
    if task == "ifeval":
        constraints = tuple(dict(c) for c in row["constraints"])
        unknown = {c.get("type") for c in constraints} - set(known_constraints())
        if unknown or not constraints:
            raise ValueError(
                f"constraints are {sorted(map(str, unknown)) or 'missing'}, known are "
                f"{', '.join(known_constraints())}"
            )
        for constraint in constraints:
            try:
                check_constraint(constraint, "")  # a constraint without its value fails here
            except UsageError as error:
                raise ValueError(str(error)) from error
        return Item(**common, constraints=constraints)
    choices, label = tuple(map(str, row["choices"])), str(row["label"])
    if label not in choices or len({normalise(c) for c in choices}) < max(2, len(choices)):
        raise ValueError(f"the label {label!r} has to be one of at least two distinct choices")
    hop = row.get("hop", "single")
    if hop not in ("single", "multi"):
        raise ValueError(f"hop is {hop!r}, not single or multi")
    return Item(**common, choices=choices, label=label, hop=hop, pair=str(row.get("pair") or ""))


def prompt(item: Item) -> str:
    """What the model is asked.

    Dynamic-SUPERB names the choices in a sentence, SAKURA letters them.
    """
    if item.task == "classification":
        return f"{item.instruction} The answer could be {', '.join(item.choices)}."
    if item.task == "sakura":
        lettered = " ".join(
            f"({letter}) {choice}"
            for letter, choice in zip(_letters(item), item.choices, strict=True)
        )
        return f"{item.instruction} {lettered}"
    return item.instruction


def _letters(item: Item) -> list[str]:
    return [chr(ord("a") + index) for index in range(len(item.choices))]


def normalise(text: str) -> str:
    """Lower case, single spaces, no punctuation at the ends of words."""
    words = (word.strip(".,;:!?\"'`*()[]{}") for word in text.lower().split())
    return " ".join(word for word in words if word)


def read_choice(item: Item, text: str) -> str | None:
    """The one choice that an answer names; None where it names none or more than one.

    An answer that is a choice counts as it is. Else choices are looked for as whole words; a
    choice within a longer one that is named ("angry" in "not angry") does not count. SAKURA's
    letters count where they stand as (a), a) or a. at the beginning, or alone.
    """
    said = normalise(text)
    for choice in item.choices:
        if said == normalise(choice):
            return choice
    found = _named(item.choices, said)
    if len(found) == 1:
        return found[0]
    if item.task == "sakura":
        letters = dict(zip(_letters(item), item.choices, strict=True))
        marked = {
            a or b for a, b in re.findall(r"\(([a-z])\)|^\s*([a-z])(?:[).:]|\s*$)", text.lower())
        }
        named = {letters[letter] for letter in marked if letter in letters}
        if len(named) == 1 and (not found or named <= set(found)):
            return next(iter(named))
    return None


def _named(choices: Iterable[str], said: str) -> list[str]:
    """Choices that occur as whole words, the longest first taking their place in the text."""
    found, rest = [], f" {said} "
    for choice in sorted(choices, key=len, reverse=True):
        pattern = rf"(?<!\w){re.escape(normalise(choice))}(?!\w)"
        if re.search(pattern, rest):
            found.append(choice)
            rest = re.sub(pattern, " \0 ", rest)
    return found


def score(item: Item, text: str, error: str = "") -> Answer:
    """Reads an answer."""
    answer = Answer(item, text, error)
    if item.task == "ifeval":
        answer.passed = [not error and check_constraint(c, text) for c in item.constraints]
    elif not error:
        answer.chosen = read_choice(item, text)
    return answer


def run_items(
    chat: Chats,
    items: Sequence[Item],
    *,
    constrained: bool = False,
    batch_size: int = 4,
    on_progress: Callable[[int], None] | None = None,
    **options: Any,
) -> list[Answer]:
    """Asks every item, in batches; one that fails is an answer with an error.

    Args:
        constrained: let the model answer with one of the choices only (by a grammar). That
            measures recognition, not instruction following, and the report says so.
        options: of `ChatModel.chat`, such as `max_new_tokens`.
    """
    if batch_size < 1:
        raise UsageError("batch_size has to be at least 1")
    answers: list[Answer] = []
    # A grammar belongs to a whole batch, so items with equal choices go together.
    order = sorted(items, key=lambda i: (i.choices if constrained else (), i.number))
    while order:
        size = 1
        while size < min(batch_size, len(order)) and not (
            constrained and order[size].choices != order[0].choices
        ):
            size += 1
        batch, order = order[:size], order[size:]
        extra = dict(options)
        if constrained and batch[0].choices:
            extra["output_type"] = "|".join(re.escape(c) for c in batch[0].choices)
        talks = [
            [
                *({"role": "audio", "content": audio} for audio in item.audios),
                {"role": "user", "content": prompt(item)},
            ]
            for item in batch
        ]
        replies = chat.chat(talks, **extra)
        for item, reply in zip(batch, replies, strict=True):
            if isinstance(reply, SpeechMetaError):
                answers.append(score(item, "", str(reply)))
            else:
                answers.append(score(item, reply.text))
        if on_progress is not None:
            on_progress(len(answers))
    return sorted(answers, key=lambda answer: answer.item.number)


def report(
    answers: Sequence[Answer],
    *,
    system: str,
    constrained: bool = False,
    text_if_rate: float | None = None,
) -> dict[str, Any]:
    """Counts and rates; everything under `measured` was measured in this run.

    Args:
        text_if_rate: the same language model's rate when it is given text in place of audio,
            for Speech-IFEval's delta: 100 * (rate - text_if_rate) / text_if_rate.
    """
    by_task: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_task[answer.item.task].append(answer)
    measured: dict[str, Any] = {}
    if found := by_task["classification"]:
        measured["classification"] = _choice_report(found)
    if found := by_task["sakura"]:
        measured["sakura"] = _sakura_report(found)
    if found := by_task["ifeval"]:
        measured["ifeval"] = _ifeval_report(found, text_if_rate)
    return {
        "system": system,
        "answers": "one of the choices, by a grammar" if constrained else "free text",
        "measured": measured,
        "published_not_measured_here": published_instruction_table(),
    }


def _rate(good: int, count: int) -> float | None:
    return good / count if count else None


def _choice_report(answers: Sequence[Answer]) -> dict[str, Any]:
    correct = sum(a.correct for a in answers)
    recalls = []
    for label in sorted({a.item.label for a in answers}):
        own = [a for a in answers if a.item.label == label]
        recalls.append(sum(a.correct for a in own) / len(own))
    names = sorted({a.item.name for a in answers})
    result: dict[str, Any] = {
        "items": len(answers),
        "failed": sum(bool(a.error) for a in answers),
        "correct": correct,
        "accuracy": _rate(correct, len(answers)),
        "uar": sum(recalls) / len(recalls),
        "no_choice_read": sum(a.chosen is None for a in answers),
        "confusion": {
            label: dict(Counter(a.chosen or "(none)" for a in answers if a.item.label == label))
            for label in sorted({a.item.label for a in answers})
        },
    }
    if len(names) > 1:
        rates = {}
        for name in names:
            own = [a for a in answers if a.item.name == name]
            rates[name] = {
                "items": len(own),
                "accuracy": _rate(sum(a.correct for a in own), len(own)),
            }
        result["by_name"] = rates
    return result


def _sakura_report(answers: Sequence[Answer]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for hop in ("single", "multi"):
        own = [a for a in answers if a.item.hop == hop]
        if own:
            result[hop] = _choice_report(own)
    pairs: dict[str, dict[str, Answer]] = defaultdict(dict)
    for answer in answers:
        if answer.item.pair:
            pairs[answer.item.pair][answer.item.hop] = answer
    known = [p["multi"] for p in pairs.values() if len(p) == 2 and p["single"].correct]
    result["multi_where_single_is_correct"] = {
        "items": len(known),
        "accuracy": _rate(sum(a.correct for a in known), len(known)),
    }
    return result


def _ifeval_report(answers: Sequence[Answer], text_if_rate: float | None) -> dict[str, Any]:
    checks = [
        (c["type"], ok) for a in answers for c, ok in zip(a.item.constraints, a.passed, strict=True)
    ]
    by_type = {}
    for kind in sorted({kind for kind, _ in checks}):
        own = [ok for name, ok in checks if name == kind]
        by_type[kind] = {"checks": len(own), "rate": sum(own) / len(own)}
    rate = 100 * sum(a.correct for a in answers) / len(answers)
    delta = None
    if text_if_rate is not None:
        if not 0 < text_if_rate <= 100:
            raise UsageError("text_if_rate is a percentage above 0")
        delta = 100 * (rate - text_if_rate) / text_if_rate
    return {
        "items": len(answers),
        "failed": sum(bool(a.error) for a in answers),
        "if_rate": rate,
        "constraint_rate": 100 * sum(ok for _, ok in checks) / len(checks),
        "by_type": by_type,
        "text_if_rate": text_if_rate,
        "delta": delta,
    }


__all__ = [
    "TASKS",
    "Answer",
    "Item",
    "prompt",
    "read_choice",
    "read_items",
    "report",
    "run_items",
    "score",
]
