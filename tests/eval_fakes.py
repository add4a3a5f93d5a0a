"""A system under test whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from speechmeta.audio.loading import Audio
from speechmeta.eval import Dataset, Prediction
from speechmeta.schema import DEFAULT_LABEL_SETS, FIELDS


class Oracle:
    """Answers with the references, or with what it is told for a clip.

    Args:
        dataset: knows the references.
        answers: by clip id, values that differ; None raises.
        fields: what it predicts.
    """

    def __init__(
        self,
        dataset: Dataset,
        answers: dict[str, dict[str, Any] | None] | None = None,
        fields: Sequence[str] = FIELDS,
        name: str = "oracle",
    ) -> None:
        self.clips = {str(clip.audio): clip for clip in dataset.clips}
        self.answers = answers or {}
        self.fields = tuple(fields)
        self.name = name
        self.batches: list[list[str]] = []

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "architecture": "fake", "fields": list(self.fields)}

    def predict(self, audios: Sequence[Audio]) -> list[Prediction]:
        self.batches.append([self.clips[str(audio.path)].id for audio in audios])
        return [self._answer(audio) for audio in audios]

    def _answer(self, audio: Audio) -> Prediction:
        assert audio.sample_rate == 16000
        assert audio.channels == 1
        clip = self.clips[str(audio.path)]
        told = self.answers.get(clip.id, {})
        if told is None:
            raise RuntimeError("out of luck")
        values: dict[str, Any] = dict.fromkeys(FIELDS)
        values.update(SpeechActivity=bool(clip.speech), Transcript="", **{})
        if clip.speech:
            values.update(clip.labels, Transcript=clip.transcript or "")
        values = {
            field: value for field, value in {**values, **told}.items() if field in self.fields
        }
        probabilities = {
            field: {
                name: 0.8 if name == values[field] else 0.2 / (len(names) - 1) for name in names
            }
            for field, names in DEFAULT_LABEL_SETS.items()
            if values.get(field) is not None
        }
        return Prediction(values=values, probabilities=probabilities, output=json.dumps(values))
