"""The signals of a recording, and for each of them speech and level over time.

Everything later (turns, speakers, loudness) is made from these few numbers per 32 ms, so
that hours of audio need no memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from speechmeta.audio.recording import Recording
from speechmeta.audio.types import FloatArray
from speechmeta.segmentation.channels import ChannelPlan, ChannelSurvey, Signal, plan_channels
from speechmeta.segmentation.levels import LevelSpread
from speechmeta.segmentation.sharing import Sharing
from speechmeta.segmentation.turns import (
    LEVELS_PER_WINDOW,
    BoolArray,
    Speech,
    TurnOptions,
    in_samples,
    speech_regions,
)


@dataclass(frozen=True)
class VoiceActivity:
    """Speech and level of every signal.

    Attributes:
        plan: the signals and where they come from.
        rate: Hz. samples: length at that rate. window: samples of one window.
        probabilities: (signals, windows) of speech; zero where it is leaked in.
        levels: (signals, 4 * windows) mean power of 8 ms each.
        leaked_windows: how many windows of speech were leaked in from another side.
        repeats: (signal, other signal, seconds) of speech that both carried and that counts
            for the other alone.
        foreign: (signals, windows), where speech counts for another signal; None for nowhere.
    """

    plan: ChannelPlan
    rate: int
    samples: int
    window: int
    probabilities: FloatArray
    levels: FloatArray
    leaked_windows: int = 0
    repeats: tuple[tuple[int, int, float], ...] = ()
    foreign: BoolArray | None = None

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
        return loudness_of(self.levels[row], self.hop, start, end)


def loudness_of(levels: FloatArray, hop: int, start: int, end: int) -> float | None:
    """RMS level of the samples `start` to `end` in dB full scale; None for digital silence.

    Args:
        levels: mean power of every `hop` samples.
    """
    first = start // hop
    part = levels[first : max(first + 1, -(-end // hop))]
    power = float(part.mean(dtype=np.float64)) if part.size else 0.0
    return round(10 * float(np.log10(power)), 1) if power > 1e-12 else None


def find_voice_activity(
    recording: Recording, mode: str = "auto", options: TurnOptions | None = None, vad: bool = True
) -> VoiceActivity:
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
    spread = LevelSpread(recording.channels, round(recording.rate * 0.032))
    for block in recording.blocks():
        survey.push(block)
        spread.push(block)
    survey.finish()
    plan = plan_channels(survey, mode, keep_dead=not vad)
    window = round(recording.rate * 0.032)
    detector = _detector(recording.rate, len(plan.signals)) if vad and plan.signals else None
    threshold = options.threshold_at(recording.rate)
    offsets = survey.offsets()[:, None]
    boost = boost_of(spread.gains(), plan.signals)
    sharing = Sharing(len(plan.signals), window, recording.rate, threshold)
    probabilities: list[FloatArray] = [np.zeros((len(plan.signals), 0), np.float32)]
    levels: list[FloatArray] = [np.zeros((len(plan.signals), 0), np.float32)]
    for block in recording.blocks() if plan.signals else ():
        signals = signal_rows(block - offsets, plan.signals)
        # A constant offset has no power.
        constant = signals.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        levels.append(powers_of(signals - constant, window // LEVELS_PER_WINDOW, window))
        if detector is None:
            probabilities.append(np.ones((len(signals), -(-signals.shape[1] // window)), "f4"))
            continue
        # Every block but the last has whole windows, so the detector keeps nothing back.
        speech = detector.push(signals * boost)
        if speech.shape[1] * window < signals.shape[1]:
            speech = np.concatenate([speech, detector.finish()], axis=1)
        sharing.push(signals, speech)
        probabilities.append(speech)
    found = np.concatenate(probabilities, axis=1)
    repeats: dict[tuple[int, int], int] = {}
    leaked = 0
    foreign: BoolArray | None = None
    if detector is not None:
        # Who asks for one signal a channel gets what each channel carries, but leaks.
        foreign, repeats = sharing.foreign(found, copies=mode != "split")
        leaked = sharing.leaked_windows
        found = np.where(foreign, np.float32(0), found)
    return VoiceActivity(
        plan=plan,
        rate=recording.rate,
        samples=recording.samples,
        window=window,
        probabilities=found,
        levels=np.concatenate(levels, axis=1),
        leaked_windows=leaked,
        repeats=tuple(
            (row, other, count * window / recording.rate)
            for (row, other), count in sorted(repeats.items())
        ),
        foreign=foreign,
    )


def signal_rows(block: FloatArray, signals: tuple[Signal, ...]) -> FloatArray:
    """The signals (signals, n) of a block (channels, n)."""
    return np.stack([signal.of(block) for signal in signals])


def boost_of(gains: FloatArray, signals: tuple[Signal, ...]) -> FloatArray:
    """The factor (signals, 1) by which each signal is multiplied for the detector."""
    factors = [max(gains[channel] for channel, _ in signal.sources) for signal in signals]
    return np.array(factors, np.float32).reshape(-1, 1)


def _detector(rate: int, rows: int) -> Any:
    from speechmeta.segmentation.vad import SileroVad

    return SileroVad(rate, rows)


def powers_of(signals: FloatArray, hop: int, window: int) -> FloatArray:
    """Mean power of every `hop` samples, over whole windows."""
    rows, samples = signals.shape
    count = -(-samples // window) * (window // hop)
    padded = np.pad(np.square(signals), ((0, 0), (0, count * hop - samples)))
    means: FloatArray = padded.reshape(rows, count, hop).mean(axis=2)
    return means
