"""`evaluate`: a data set and a system in, a report out."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from speechmeta.errors import UsageError
from speechmeta.pipeline.options import ModelOptions, divided
from speechmeta.schema import DEFAULT_LABEL_SETS, LABEL_FIELDS
from speechmeta.version import __version__

from .condition import CONDITION
from .metrics.score import score_records
from .options import EvalOptions
from .readers.label_maps import fold
from .readers.registry import read_dataset
from .reports.output import OutputPaths, write_report
from .reports.published_table import published_table
from .run import Journal, Progress, RunOptions, run
from .systems import label_sets_of
from .types import AnyPredictor, Dataset

KIND = "speechmeta-eval"
SCHEMA_VERSION = "1.0"
FREE_RUNNING = "free-running"


def evaluate(
    dataset: str | Dataset,
    data: str | Path | None = None,
    split: str | None = None,
    options: EvalOptions | None = None,
    *,
    predictor: AnyPredictor | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    command: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Runs a system over a data set and measures it.

    Args:
        dataset: the reader's name (`readers.catalogue.READERS`), or a read `Dataset`.
        data, split: as for `read_dataset`.
        options: what is measured and how; None for the defaults.
        predictor: a system of another kind, in place of a model.
        output: a folder for report.json, report.md, report.html and records.jsonl, or a
            `.json` file whose siblings take its name. None writes nothing.
        resume: go on with the records of an interrupted run of the same kind in `output`.
        progress: called after every clip.
        command: the command line, for the report.
        overrides: single fields of `EvalOptions` and of `ModelOptions`, such as `model`.

    Returns:
        the report, JSON-ready. `wer` and `cer` are fractions, None without references;
        `labels` has the measures by field; `errors` counts failed clips, which are in every
        denominator.

    Raises:
        UsageError: options that do not go together.
        DatasetError, ModelError, OutputError: what the names say.
    """
    model, rest = divided(overrides)
    asked = EvalOptions.of(options, rest)
    if isinstance(dataset, Dataset):
        if any(
            item is not None for item in (data, split, asked.classes, asked.limit, asked.sample)
        ):
            raise UsageError(
                "data, split, classes, limit or sample were given along with a finished data set",
                "choose when reading it",
            )
    else:
        if data is None:
            raise UsageError("no data was given", "give the folder or manifest as data")
        dataset = read_dataset(
            dataset,
            data,
            split,
            classes=asked.classes,
            limit=asked.limit,
            sample=asked.sample,
        )
    if predictor is not None and (
        model.model is not None or asked.teacher_forced or asked.fields is not None
    ):
        raise UsageError(
            "a predictor was given along with options of a model", "give one or the other"
        )
    if resume and output is None:
        raise UsageError("there is nothing to resume without an output", "give -o")
    if asked.telephone and predictor is not None and not getattr(predictor, "needs_audio", True):
        raise UsageError("these predictions were made without a telephone", "leave it out")
    size = model.batch_size or RunOptions().batch_size
    how = RunOptions(size, 20.0 * size, telephone=asked.telephone)
    paths = None if output is None else OutputPaths.of(output)
    from .metrics.normalizers import load_normalizer

    # Before the run: a wrong name should not cost hours.
    text_normalizer = load_normalizer(asked.normalizer, asked.spelling_map)
    if predictor is None:
        predictor = _load(model.updated({"batch_size": size}), asked)
    system = predictor.describe()
    dataset = with_classes(dataset, label_sets_of(system))
    decoding = str(system.pop("decoding", FREE_RUNNING))
    if asked.teacher_forced:
        from .metrics.teacher_forced import DECODING

        decoding = DECODING
    journal = None
    if paths is not None:
        identity = _identity(dataset, system, decoding, asked.telephone)
        journal = Journal(paths.records, identity, resume=resume)
    started = datetime.now(UTC)
    records = run(dataset, predictor, journal, how, progress)
    report: dict[str, Any] = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "decoding": decoding,
        "dataset": {
            "name": dataset.name,
            "source": dataset.source,
            "split": dataset.split,
            "notes": [*dataset.notes, *([asked.note] if asked.note else [])],
            "label_maps": dict(dataset.mapping),
        },
        "condition": CONDITION if asked.telephone else None,
        "system": system,
        "command": command,
        "created": started.isoformat(timespec="seconds"),
        "wall_seconds": (datetime.now(UTC) - started).total_seconds(),
        "batch_size": size,
        "peak_memory_mb": peak_memory_mb(),
        "versions": versions(),
    }
    if asked.teacher_forced:
        from .metrics.teacher_forced import score_teacher_forced

        report.update(score_teacher_forced(records, system.pop("protocol")))
    else:
        maps = getattr(predictor, "label_maps", None)
        if maps is not None:
            system["label_maps"] = maps()
        report["ignore_abstained"] = asked.ignore_abstained
        report.update(
            score_records(
                records,
                text_normalizer,
                fields=system["fields"],
                label_sets=label_sets_of(system),
                classes=dataset.classes,
                folds=dataset.folds,
                ignore_abstained=asked.ignore_abstained,
            )
        )
    report["published"] = published_table(dataset.name)
    # The long columns come last, where a reader of the file meets the numbers first.
    if "clips" in report:
        report["clips"] = report.pop("clips")
    if paths is not None:
        write_report(report, records, text_normalizer, paths)
    return report


def with_classes(dataset: Dataset, label_sets: Mapping[str, Sequence[str]]) -> Dataset:
    """The data set with labels in the classes of a system that brings its own.

    Where a system's classes of a field are not the default ones, a clip's label is the class
    of the same name as the source's value, or the mapped one where the system has it.
    """
    own = {
        field: {fold(name): name for name in label_sets[field]}
        for field in LABEL_FIELDS
        if set(label_sets[field]) != set(DEFAULT_LABEL_SETS[field])
    }
    if not own or not any(clip.source_labels for clip in dataset.clips):
        return dataset
    clips = []
    for clip in dataset.clips:
        labels = dict(clip.labels)
        for field, names in own.items():
            found = names.get(fold(clip.source_labels.get(field, "")))
            found = found or names.get(fold(labels.get(field, "")))
            labels.pop(field, None)
            if found is not None:
                labels[field] = found
        clips.append(replace(clip, labels=labels))
    note = f"{', '.join(own)}: in the system's own classes; its counts of label maps do not apply."
    return replace(dataset, clips=clips, notes=(*dataset.notes, note))


def peak_memory_mb() -> float | None:
    """The most memory that this process had so far, in 10^6 bytes; None where nothing tells."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    names = ("torch", "transformers", "jiwer", "scikit-learn", "numpy")
    return {
        "speechmeta": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
    }


def _load(model: ModelOptions, options: EvalOptions) -> AnyPredictor:
    if model.llm is not None:
        raise UsageError("call fields are not measured", "leave --llm and --call-schema out")
    if options.teacher_forced:
        from speechmeta.models.speechllm import load_model

        from .metrics.teacher_forced import TeacherForcedPredictor

        if model.transcriber is not None:
            raise UsageError(
                "teacher forcing measures one model, and a transcriber is named as well",
                "leave --transcriber out",
            )
        if model.model is None:
            raise UsageError(
                "teacher forcing needs a checkpoint that writes the whole record",
                "name a SpeechLLM checkpoint with --model",
            )
        loaded, processor = load_model(
            model.model,
            device=model.device,
            dtype=model.dtype,
            local_files_only=model.local_files_only,
        )
        return TeacherForcedPredictor(loaded, processor, model.model)
    from speechmeta.pipeline.analyzer import Analyzer

    from .systems import AnalyzerPredictor

    return AnalyzerPredictor(Analyzer(**dict(model)), options.fields, options.min_confidence)


def _identity(
    dataset: Dataset, system: Mapping[str, Any], decoding: str, telephone: bool
) -> dict[str, Any]:
    # What has to be the same for the records of an interrupted run to be taken over.
    keys = (
        "name", "architecture", "dtype", "transcriber", "heads", "language", "fields",
        "min_confidence",
    )  # fmt: skip
    return {
        "dataset": dataset.name,
        "source": dataset.source,
        "split": dataset.split,
        "classes": {key: list(value) for key, value in dataset.classes.items()},
        "decoding": decoding,
        "telephone": telephone,
        "system": {key: system[key] for key in keys if key in system},
    }
