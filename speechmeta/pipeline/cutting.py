"""Stretches of a recording's signals as models take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from speechmeta.audio.loading import SAMPLE_RATE, resample
from speechmeta.audio.recording import Cut, Recording, cut_out
from speechmeta.audio.types import FloatArray
from speechmeta.decoding.no_speech import without_edges
from speechmeta.segmentation.channels import Signal
from speechmeta.segmentation.voice_activity import signal_rows


def cut_clips(
    recording: Recording, signals: tuple[Signal, ...], cuts: Sequence[Cut]
) -> Iterator[FloatArray]:
    """Clips (samples,) at 16 kHz; `cuts` have to be in order of their end, and come in it."""
    if not cuts:
        return
    blocks = (signal_rows(block, signals) for block in recording.blocks())
    for samples in cut_out(blocks, cuts):
        yield model_clip(samples, recording.rate)


def model_clip(samples: FloatArray, rate: int) -> FloatArray:
    """Samples (n,) as models take them: at 16 kHz, and zeros where they are all equal."""
    return resample(without_edges(samples), rate, SAMPLE_RATE)
