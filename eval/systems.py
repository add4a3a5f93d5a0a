"""Systems under test: this package's models, transformers pipelines, files of predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmeta.errors import DatasetError, SpeechMetaError, UsageError
from speechmeta.models.base import given_fields
from speechmeta.schema import DEFAULT_LABEL_SETS, FIELDS, LABEL_FIELDS, check_fields

from .readers.label_maps import LabelMapper
from .readers.source_files import read_lines
from .types import Clip, Prediction, Value

if TYPE_CHECKING:
    from speechmeta.audio.loading import Audio
    from speechmeta.pipeline.analyzer import Analyzer

WHISPER_SECONDS = 30.0
"""Whisper hears that much at once; longer audio needs its sequential decoding."""


class AnalyzerPredictor:
    """A checkpoint through `Analyzer`, decoding freely; each clip as one turn.

    Args:
        analyzer: the analyzer.
        fields: the fields to ask for, None for all.
        min_confidence: labels less probable than this become null; by default none, whatever
            the checkpoint asks for.
    """

    def __init__(
        self,
        analyzer: Analyzer,
        fields: Sequence[str] | None = None,
        min_confidence: float | None = None,
    ) -> None:
        self.analyzer = analyzer
        self.fields = given_fields(analyzer.engine, fields)
        # A measurement wants every label, also from a checkpoint that leaves unsure ones out.
        self.min_confidence = min_confidence or 0.0

    def describe(self) -> dict[str, Any]:
        return {
            **self.analyzer.info.model_dump(),
            "fields": list(self.fields),
            "label_sets": {key: list(value) for key, value in self.analyzer.label_sets.items()},
            "min_confidence": self.min_confidence,
        }

    def predict(self, audios: Sequence[Audio]) -> list[Prediction]:
        results = self.analyzer.generate_meta_batch(list(audios), self.fields, self.min_confidence)
        predictions = []
        for result in results:
            if isinstance(result, SpeechMetaError):
                predictions.append(Prediction(error=str(result)))
                continue
            predictions.append(
                Prediction(
                    values={field: result.value(field) for field in result.fields},
                    probabilities={
                        field: result.probabilities[field]
                        for field in LABEL_FIELDS
                        if result.probabilities.get(field)
                    },
                    output=result.model_dump_json(),
                    flags=result.flags,
                )
            )
        return predictions


class PipelinePredictor:
    """Any transformers ASR pipeline, any audio classifiers, or both together.

    Args:
        asr: a hub id, a folder, or a finished automatic-speech-recognition pipeline.
        classifiers: by label field, the same for audio-classification. Their labels are
            mapped by the committed tables; several labels of one class add up, and labels
            without a class take no part: the rest is rescaled to sum to one.
        device: as for `transformers.pipeline`.

    Raises:
        UsageError: neither is given, or a classifier is for no label field.
    """

    def __init__(
        self,
        asr: Any = None,
        classifiers: Mapping[str, Any] | None = None,
        device: str = "auto",
    ) -> None:
        classifiers = classifiers or {}
        if asr is None and not classifiers:
            raise UsageError("no pipeline was given", "give asr, classifiers or both")
        unknown = sorted(set(classifiers) - set(LABEL_FIELDS))
        if unknown:
            raise UsageError(
                f"no label field {', '.join(unknown)}", f"choose from {', '.join(LABEL_FIELDS)}"
            )
        self.asr = _pipeline("automatic-speech-recognition", asr, device)
        self.classifiers = {
            field: _pipeline("audio-classification", model, device)
            for field, model in classifiers.items()
        }
        self._names = [str(item) for item in (asr, *classifiers.values()) if isinstance(item, str)]
        self._mappers = {field: LabelMapper("*") for field in classifiers}
        self._seen: dict[str, dict[str, str | None]] = {field: {} for field in classifiers}

    def describe(self) -> dict[str, Any]:
        parts = {"asr": _name(self.asr)} if self.asr is not None else {}
        parts.update({field: _name(item) for field, item in self.classifiers.items()})
        fields = (["Transcript"] if self.asr is not None else []) + list(self.classifiers)
        return {
            "name": " + ".join(parts.values()),
            "architecture": "transformers pipelines",
            "pipelines": parts,
            "fields": list(check_fields(fields)),
        }

    def predict(self, audios: Sequence[Audio]) -> list[Prediction]:
        # Pipelines change the dict that they are given.
        def inputs() -> list[dict[str, Any]]:
            return [{"raw": audio.mono(), "sampling_rate": audio.sample_rate} for audio in audios]

        values: list[dict[str, Value]] = [{} for _ in audios]
        probabilities: list[dict[str, dict[str, float]]] = [{} for _ in audios]
        if self.asr is not None:
            options: dict[str, Any] = {}
            config = getattr(getattr(self.asr, "model", None), "config", None)
            long = any(audio.duration > WHISPER_SECONDS for audio in audios)
            if long and getattr(config, "model_type", None) == "whisper":
                options["return_timestamps"] = True
            outputs = self.asr(inputs(), batch_size=len(audios), **options)
            for value, output in zip(values, outputs, strict=True):
                value["Transcript"] = str(output["text"]).strip()
        for field, classifier in self.classifiers.items():
            outputs = classifier(inputs(), batch_size=len(audios), top_k=None)
            for value, distribution, output in zip(values, probabilities, outputs, strict=True):
                classes = self._classes(field, output)
                distribution[field] = classes
                value[field] = max(classes, key=classes.__getitem__) if classes else None
        return [
            Prediction(values=value, probabilities=distribution)
            for value, distribution in zip(values, probabilities, strict=True)
        ]

    def label_maps(self) -> dict[str, dict[str, str | None]]:
        """By field, what each label of the classifier was taken for; None: nothing."""
        return {field: dict(seen) for field, seen in self._seen.items()}

    def _classes(self, field: str, output: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        sums: dict[str, float] = {}
        for item in output:
            label = str(item["label"])
            if label not in self._seen[field]:
                self._seen[field][label] = self._mappers[field].map(field, label)
            name = self._seen[field][label]
            if name is not None:
                sums[name] = sums.get(name, 0.0) + float(item["score"])
        mass = sum(sums.values())
        return {name: value / mass for name, value in sums.items()} if mass > 0 else {}


class FilePredictor:
    """Another system's predictions, one JSON object a line.

    A line names its clip by `id`, `audio` or `audio_filepath` as the data set does (ids of
    the official data sets are the utterance names), and gives `pred_text` or `Transcript`,
    any of the other fields in either case, and optionally `probabilities` (by field, by
    class), `output` (the JSON as the system wrote it), `time` (seconds) and `error`. A clip
    without a line is an error.

    Raises:
        DatasetError: the file cannot be read, a line is not as it should be, or two lines
            are of one clip.
    """

    needs_audio = False

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows: dict[str, Prediction] = {}
        self._fields: set[str] = set()
        mapper = LabelMapper("manifest")
        for number, line in enumerate(read_lines(self.path), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                key = str(next(row[k] for k in ("id", "audio", "audio_filepath") if k in row))
                if key in self._rows:
                    raise ValueError(f"{key!r} occurs twice")
                self._rows[key] = _prediction(row, mapper)
            except StopIteration:
                raise DatasetError(
                    f"{path}, line {number}: no id, audio or audio_filepath", "name the clip"
                ) from None
            except (ValueError, TypeError, AttributeError) as error:
                raise DatasetError(f"{path}, line {number}: {error}", "check the line") from error
            self._fields |= set(self._rows[key].values)
        if not self._rows:
            raise DatasetError(f"{path} holds no predictions", "check --predictions")
        if not self._fields:
            raise DatasetError(
                f"{path} predicts no field", f"give pred_text or any of {', '.join(FIELDS)}"
            )

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.path.name,
            "architecture": "predictions from a file",
            "decoding": "not known: predictions from a file",
            "fields": [field for field in FIELDS if field in self._fields],
        }

    def predict_clips(
        self, clips: Sequence[Clip], audios: Sequence[Audio | None]
    ) -> list[Prediction]:
        return [self._find(clip) for clip in clips]

    def _find(self, clip: Clip) -> Prediction:
        for key in (clip.id, str(clip.audio), clip.audio.name):
            if key in self._rows:
                return self._rows[key]
        return Prediction(error=f"no prediction for {clip.id} in {self.path.name}", seconds=0.0)


def _prediction(row: Mapping[str, Any], mapper: LabelMapper) -> Prediction:
    values: dict[str, Value] = {}
    speech = row.get("SpeechActivity", row.get("speech"))
    if speech is not None:
        if not isinstance(speech, bool):
            raise ValueError(f"SpeechActivity is {speech!r}, not true or false")
        values["SpeechActivity"] = speech
    for key in ("pred_text", "Transcript", "transcript"):
        if isinstance(row.get(key), str):
            values["Transcript"] = row[key]
            break
    for field in LABEL_FIELDS:
        for key in (field, field.lower()):
            if key in row:
                # A label outside the classes is kept: it is wrong, not unsaid.
                given = None if row[key] is None else str(row[key])
                values[field] = mapper.map(field, given) or given
    probabilities = row.get("probabilities") or {}
    return Prediction(
        values=values,
        probabilities={
            field: {str(k): float(v) for k, v in probabilities[field].items()}
            for field in LABEL_FIELDS
            if probabilities.get(field)
        },
        output=row.get("output"),
        error=row.get("error"),
        # Looking a line up is not the system's time.
        seconds=float(row.get("time") or 0.0),
    )


def _pipeline(task: str, model: Any, device: str) -> Any:
    if model is None or not isinstance(model, (str, Path)):
        return model
    import torch
    from transformers import pipeline

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    from speechmeta.trust import check_folder, checkpoint_errors

    with checkpoint_errors(f"cannot load {model} for {task}", "check the name"):
        if Path(model).is_dir():
            check_folder(Path(model))
        return pipeline(task, model=str(model), device=device, trust_remote_code=False)


def _name(pipeline: Any) -> str:
    config = getattr(getattr(pipeline, "model", None), "config", None)
    return str(getattr(config, "name_or_path", "") or type(pipeline).__name__)


def label_sets_of(description: Mapping[str, Any]) -> dict[str, list[str]]:
    """The classes of a described system, the defaults where it does not say."""
    return {**DEFAULT_LABEL_SETS, **description.get("label_sets", {})}
