"""Clips in which nobody can speak, whatever a model makes of them.

Models have learnt from clips with sound. To a tenth of a second of zeros Whisper answers with a
word that is common at the start of a turn, and heads with a voice that is common.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.audio.types import FloatArray
from speechmeta.decoding.record import DecodedRecord

SHORTEST_SECONDS = 0.05
"""A clip shorter than this holds no speech: it's half of what a syllable takes those who talk
fastest, ten a second. The bundled model gives clips of that length, of whatever sound, a word."""


def holds_no_speech(waveform: npt.NDArray[np.floating]) -> bool:
    """Whether a clip is digital silence (all samples equal), or too short for a syllable.

    Args:
        waveform: (samples,) at 16 kHz, at least one.
    """
    if len(waveform) < round(SHORTEST_SECONDS * SAMPLE_RATE):
        return True
    return bool((waveform == waveform[0]).all())


def record_without_speech(fields: Sequence[str]) -> DecodedRecord:
    """What there is to say of such a clip, in the fields that are asked for."""
    values: dict[str, bool | str | None] = dict.fromkeys(fields)
    tables: dict[str, dict[str, float]] = {}
    if "SpeechActivity" in values:
        values["SpeechActivity"] = False
        tables["SpeechActivity"] = {"True": 0.0, "False": 1.0}
    if "Transcript" in values:
        values["Transcript"] = ""
    return DecodedRecord(values, tables)


def without_edges(samples: FloatArray) -> FloatArray:
    """Samples (..., n) as they are, or zeros where they are all equal.

    A constant that isn't zero would come out of resampling with a click at either end.
    """
    constant = samples.size and bool((samples == samples.flat[0]).all())
    return np.zeros_like(samples) if constant else samples


__all__ = ["SHORTEST_SECONDS", "holds_no_speech", "record_without_speech", "without_edges"]
