"""Training data for chat out of metadata, as DeSTA makes it.

A language model that cannot hear is given a description of a recording and a question, and
what it answers becomes the answer that the model learns to give when it hears the recording.
No instruction data is needed (arXiv 2409.20007, arXiv 2507.02768).

    metadata record ─► description ─┐
                                    ├─► language model ─► response ─► training manifest
    list of seed prompts ─► prompt ─┘
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from speechmeta.errors import DatasetError, OutputError, SpeechMetaError, UsageError
from speechmeta.training.descriptions import DescribedSpeech
from speechmeta.training.text_models import Messages, TextModel

SYSTEM_FOR_WRITER = (
    "You are given the description of a recording in place of the recording itself. Answer as if "
    "you had heard it. Do not mention that there is a description."
)
SYSTEM_FOR_TRAINING = "Focus on the audio clips and instructions."
_PROMPTS_FILE = Path(__file__).with_name("seed_prompts.txt")


@dataclass(frozen=True)
class Task:
    """One line to be written: a recording and a question about it."""

    id: str
    speech: DescribedSpeech
    prompt: str


@dataclass(frozen=True)
class ConstructionReport:
    """What a run did.

    Attributes:
        written: lines that this run added.
        kept: lines that were there before.
        failed: tasks without an answer; a rerun tries them again.
    """

    written: int
    kept: int
    failed: int


def read_prompts(path: Path | None = None) -> list[str]:
    """Seed prompts, one a line; None for the list that comes with speechmeta.

    Raises:
        DatasetError: the file cannot be read or holds none.
    """
    file = path or _PROMPTS_FILE
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DatasetError(f"cannot read {file}: {error.strerror}", "check the path") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise DatasetError(f"{file} has no prompts", "one a line")
    return prompts


def plan(
    records: Iterable[DescribedSpeech], prompts: Sequence[str], per_record: int, seed: int
) -> Iterator[Task]:
    """Draws prompts for every record; the draw depends on the record and the seed only.

    Raises:
        UsageError: more prompts a record are wanted than there are.
    """
    if not 1 <= per_record <= len(prompts):
        raise UsageError(
            f"{per_record} prompts per record are wanted, but there are {len(prompts)}",
            "lower the number or give more prompts",
        )
    for record in records:
        drawn = random.Random(f"{seed}:{record.id}").sample(list(prompts), per_record)
        for prompt in drawn:
            key = hashlib.sha256(f"{record.id}\n{prompt}".encode()).hexdigest()[:10]
            yield Task(f"{record.id}-{key}", record, prompt)


def construct(
    tasks: Iterable[Task],
    writer: TextModel,
    output: Path,
    *,
    batch_size: int = 8,
    on_progress: Callable[[int], None] | None = None,
) -> ConstructionReport:
    """Writes a training manifest; a rerun continues where an earlier one ended.

    Every line is written whole and flushed, so an interrupted run loses at most the batch in
    work. A task whose answer fails or is empty is counted and tried again by a rerun.

    Args:
        tasks: see `plan`.
        output: JSON Lines; lines of an earlier run stay.
        on_progress: called with the number of tasks done, after every batch.

    Raises:
        DatasetError: `output` exists, but is not a training manifest.
        OutputError: it cannot be written.
        ModelError: the language model answers nothing at all.
    """
    if batch_size < 1:
        raise UsageError("batch_size has to be at least 1")
    done = _repair(output)
    kept, written, failed, seen = len(done), 0, 0, 0
    with _appending(output) as file:
        for batch in _batches(tasks, batch_size):
            fresh = [task for task in batch if task.id not in done]
            for task, answer in zip(fresh, _answers(writer, fresh), strict=True):
                if not answer:
                    failed += 1
                    continue
                file.write(json.dumps(training_line(task, answer, writer.name), ensure_ascii=False))
                file.write("\n")
                done.add(task.id)
                written += 1
            file.flush()
            os.fsync(file.fileno())
            seen += len(batch)
            if on_progress is not None:
                on_progress(seen)
    return ConstructionReport(written, kept, failed)


@contextmanager
def _appending(output: Path) -> Iterator[TextIO]:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("a", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise OutputError(
            f"{output} cannot be written: {error.strerror or error}",
            "check folder, rights and space",
        ) from error


def writer_messages(task: Task) -> Messages:
    """What the language model is asked."""
    return [
        {"role": "system", "content": SYSTEM_FOR_WRITER},
        {"role": "user", "content": f"{task.speech.description}\n\n{task.prompt}"},
    ]


def training_line(task: Task, response: str, generator: str) -> dict[str, Any]:
    """A line of the training manifest (see `speechmeta.training.qformer`)."""
    return {
        "id": task.id,
        "audio": task.speech.audio,
        "transcript": task.speech.transcript,
        "system": SYSTEM_FOR_TRAINING,
        "prompt": task.prompt,
        "response": response,
        "description": task.speech.description,
        "generator": generator,
    }


def _answers(writer: TextModel, tasks: list[Task]) -> list[str]:
    """Answers in order; a batch that fails is tried one by one, what fails again is empty."""
    if not tasks:
        return []
    try:
        return writer.answer([writer_messages(task) for task in tasks])
    except SpeechMetaError as error:
        if len(tasks) == 1:
            return [""]
        answers = [text for task in tasks for text in _answers(writer, [task])]
        if not any(answers):
            # Nothing works: this is the model or the server, not the tasks.
            raise error
        return answers


def _batches(tasks: Iterable[Task], size: int) -> Iterator[list[Task]]:
    batch: list[Task] = []
    for task in tasks:
        batch.append(task)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _repair(output: Path) -> set[str]:
    """Ids of the lines that are there; a last line that was cut off is removed."""
    if not output.exists():
        return set()
    try:
        data = output.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with output.open("r+b") as file:
                file.truncate(len(whole))
        return {json.loads(line)["id"] for line in whole.splitlines() if line.strip()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{output} exists, but is not a training manifest: {error}", "name another file"
        ) from error


__all__ = [
    "ConstructionReport",
    "Task",
    "construct",
    "plan",
    "read_prompts",
    "training_line",
    "writer_messages",
]
