"""A decoder without weights whose answers follow from the waveform, for tests around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from speechmeta.decoding.record import DecodedRecord
from speechmeta.errors import DecodingError, SpeechMetaError
from speechmeta.schema import (
    DEFAULT_LABEL_SETS,
    FIELDS,
    LABEL_FIELDS,
    LabelSets,
    ModelInfo,
    check_fields,
)

TOO_SHORT = 1280


class FakeEngine:
    """Says "N seconds" of each waveform; silence is no speech; a click is an error.

    The pitch decides on Gender: below 500 Hz it is Male. `calls` keeps what was asked.
    """

    def __init__(self) -> None:
        self.info = ModelInfo(name="fake", architecture="fake", device="cpu", dtype="float32")
        self.fields = FIELDS
        self.label_sets: LabelSets = DEFAULT_LABEL_SETS
        self.thresholds: dict[str, float] = {}
        self.max_seconds = 30.0
        self.batch_size = 8
        self.gives_words = False
        self.calls: list[tuple[list[int], tuple[str, ...], str | None]] = []

    def decode(
        self,
        waveforms: Sequence[npt.NDArray[np.float32]],
        fields: Sequence[str] | None = None,
        instruction: str | None = None,
        word_times: bool = False,
    ) -> list[DecodedRecord | SpeechMetaError]:
        asked = check_fields(fields)
        self.calls.append(([len(w) for w in waveforms], asked, instruction))
        return [self._record(waveform, asked) for waveform in waveforms]

    def _record(
        self, waveform: npt.NDArray[np.float32], asked: tuple[str, ...]
    ) -> DecodedRecord | SpeechMetaError:
        if len(waveform) < TOO_SHORT:
            return DecodingError("the clip is too short", "give more")
        speech = float(np.abs(waveform).max()) > 1e-3
        crossings = int(np.sum(np.diff(np.signbit(waveform))))
        low = crossings / (2 * len(waveform) / 16000) < 500
        probabilities: dict[str, dict[str, float]] = {
            "SpeechActivity": {"True": float(speech), "False": float(not speech)},
            "Gender": {"Female": 0.1 if low else 0.9, "Male": 0.9 if low else 0.1},
            "Age": {"Young": 0.6, "Middle-Age": 0.3, "Senior": 0.1},
            "Accent": dict.fromkeys(DEFAULT_LABEL_SETS["Accent"], 1 / 7),
            "Emotion": dict.fromkeys(DEFAULT_LABEL_SETS["Emotion"], 0.2),
        }
        values: dict[str, Any] = {
            "SpeechActivity": speech,
            "Transcript": f"{len(waveform) / 16000:.1f} seconds" if speech else "",
        }
        for field in LABEL_FIELDS:
            table = probabilities[field]
            values[field] = max(table, key=table.__getitem__) if speech else None
        kept = ("SpeechActivity", *LABEL_FIELDS) if speech else ("SpeechActivity",)
        return DecodedRecord(
            values={field: values[field] for field in asked},
            probabilities={field: probabilities[field] for field in kept if field in asked},
            text="...",
            sampled_tokens=1,
        )
