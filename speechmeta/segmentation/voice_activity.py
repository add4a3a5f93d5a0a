"""What is heard in a recording: its signals, and for each of them speech and level over time.

Everything later (turns, speakers, loudness) is made from these few numbers per 32 ms, so
that hours of audio need no memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from speechmeta.audio.recording import Recording
from speechmeta.audio.types import FloatArray
from speechmeta.segmentation.channels import ChannelPlan, ChannelSurvey, Signal, plan_channels
from speechmeta.segmentation.crosstalk import leaked_windows
from speechmeta.segmentation.turns import (
    LEVELS_PER_WINDOW,
    Speech,
    TurnOptions,
    in_samples,
    runs,
    speech_regions,
)

BoolArray = npt.NDArray[np.bool_]

LEAK_SHARE = 0.5
"""A run of speech of which this share is leaked in is a leak as a whole."""


@dataclass(frozen=True)
class Hearing:
    """Speech and level of every signal.

    Attributes:
        plan: the signals and where they come from.
        rate: Hz. samples: length at that rate. window: samples of one window.
        probabilities: (signals, windows) of speech; zero where it is leaked in.
        levels: (signals, 4 * windows) mean power of 8 ms each.
        leaked_windows: how many windows of speech were leaked in from another side.
    """

    plan: ChannelPlan
    rate: int
    samples: int
    window: int
    probabilities: FloatArray
    levels: FloatArray
    leaked_windows: int = 0

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples / self.rate

    @property
    def hop(self) -> int:
        """Samples of one level."""
        return self.window // LEVELS_PER_WINDOW

    def speech(self, row: int, options: TurnOptions) -> list[Speech]:
        """Runs of speech of a signal."""
        regions = speech_regions(self.probabilities[row], options.threshold_at(self.rate))
        return in_samples(regions, self.window, self.samples)

    def loudness(self, row: int, start: int, end: int) -> float | None:
        """RMS level of the samples `start` to `end` in dB full scale; None for digital silence."""
        first = start // self.hop
        part = self.levels[row, first : max(first + 1, -(-end // self.hop))]
        power = float(part.mean(dtype=np.float64)) if part.size else 0.0
        return round(10 * float(np.log10(power)), 1) if power > 1e-12 else None


def hear(
    recording: Recording, mode: str = "auto", options: TurnOptions | None = None, vad: bool = True
) -> Hearing:
    """Runs through a recording twice: for its channels, then for speech and levels.

    Args:
        mode: `auto`, `mono` or `split`, see `plan_channels`.
        options: for the speech threshold.
        vad: whether to look for speech at all; without, every probability is one.

    Raises:
        AudioError, UsageError.
    """
    options = options or TurnOptions()
    survey = ChannelSurvey(recording.channels, recording.rate)
    for block in recording.blocks():
        survey.push(block)
    survey.finish()
    plan = plan_channels(survey, mode, keep_dead=not vad)
    window = round(recording.rate * 0.032)
    detector = _detector(recording.rate, len(plan.signals)) if vad and plan.signals else None
    threshold = options.threshold_at(recording.rate)
    probabilities: list[FloatArray] = [np.zeros((len(plan.signals), 0), np.float32)]
    levels: list[FloatArray] = [np.zeros((len(plan.signals), 0), np.float32)]
    leaked = 0
    for block in recording.blocks() if plan.signals else ():
        signals = signal_rows(block, plan.signals)
        levels.append(_powers(signals, window // LEVELS_PER_WINDOW, window))
        if detector is None:
            probabilities.append(np.ones((len(signals), -(-signals.shape[1] // window)), "f4"))
            continue
        # Every block but the last has whole windows, so the detector keeps nothing back.
        heard = detector.push(signals)
        if heard.shape[1] * window < signals.shape[1]:
            heard = np.concatenate([heard, detector.finish()], axis=1)
        leak = leaked_runs(signals, heard, threshold, window, recording.rate)
        leaked += int(leak.sum())
        probabilities.append(np.where(leak, np.float32(0), heard))
    return Hearing(
        plan=plan,
        rate=recording.rate,
        samples=recording.samples,
        window=window,
        probabilities=np.concatenate(probabilities, axis=1),
        levels=np.concatenate(levels, axis=1),
        leaked_windows=leaked,
    )


def signal_rows(block: FloatArray, signals: tuple[Signal, ...]) -> FloatArray:
    """The signals (signals, n) of a block (channels, n)."""
    return np.stack([signal.of(block) for signal in signals])


def leaked_runs(
    signals: FloatArray, probabilities: FloatArray, threshold: float, window: int, rate: int
) -> BoolArray:
    """Windows of speech that are another side's voice, in whole runs where most of it is."""
    speech = probabilities >= max(threshold - 0.15, threshold / 4)
    leaked = leaked_windows(signals, speech, window, rate)
    for row in np.flatnonzero(leaked.any(axis=1)):
        for first, last in runs(speech[row]):
            if leaked[row, first:last].mean() >= LEAK_SHARE:
                leaked[row, first:last] = True
    return leaked


def _detector(rate: int, rows: int) -> Any:
    from speechmeta.segmentation.vad import SileroVad

    return SileroVad(rate, rows)


def _powers(signals: FloatArray, hop: int, window: int) -> FloatArray:
    """Mean power of every `hop` samples, over whole windows; a constant offset has none."""
    rows, samples = signals.shape
    count = -(-samples // window) * (window // hop)
    offset = signals.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    squares = np.square(signals - offset)
    padded = np.pad(squares, ((0, 0), (0, count * hop - samples)))
    means: FloatArray = padded.reshape(rows, count, hop).mean(axis=2)
    return means
