"""Loud sound that the speech detector left out, judged by the model's SpeechActivity head.

What the head calls speech counts as found by the detector from then on, so that turns, speakers
and coverage follow from it as from any other speech.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from speechmeta.audio.loading import SAMPLE_RATE, resample
from speechmeta.audio.recording import Cut, Recording, cut_out
from speechmeta.audio.types import FloatArray
from speechmeta.segmentation.crosstalk import MAX_DELAY_SECONDS
from speechmeta.segmentation.left_out import carried_by_another, loud_stretches
from speechmeta.segmentation.turns import Speech, TurnOptions, find_turns, in_samples, runs
from speechmeta.segmentation.voice_activity import VoiceActivity, signal_rows

SPEECH_FROM = 0.9
"""Probability of speech by the head from which a stretch is taken. What comes here was no speech
to the detector, so that half is not enough; most real shouts have 0.95 and more, a crackle about
0.8 (benchmarks/left_out.py)."""

WORTH_A_WARNING_SECONDS = 1.0
_TOGETHER = 64

Judge = Callable[[Sequence[FloatArray]], Sequence[float | None]]
"""Takes clips (samples,) at 16 kHz to probabilities of speech; None for one that could not be
judged."""

JudgeSource = Callable[[], Judge | None]
"""Gives the judge when one is needed; None from a model that has no head for it."""


@dataclass(frozen=True)
class _Stretch:
    row: int
    speech: Speech


def look_again(
    recording: Recording, activity: VoiceActivity, options: TurnOptions, judge: JudgeSource
) -> tuple[VoiceActivity, list[str]]:
    """The activity with the speech that the detector left out, and warnings.

    Args:
        recording: that `activity` was found in.
        options: by which turns are made.

    Raises:
        AudioError: the file is no longer what it was.
    """
    stretches = [
        _Stretch(row, stretch)
        for row in range(len(activity.plan.signals))
        for stretch in _loud(activity, row, options)
    ]
    if not stretches:
        return activity, []
    ask = judge()
    if ask is None:
        return activity, _unasked(activity, stretches)
    stretches.sort(key=lambda item: (item.speech.end, item.row))
    found = activity.probabilities.copy()
    failed = 0.0
    for group, clips in _clips(recording, activity, options, stretches):
        for stretch, probability in zip(group, ask(clips), strict=True):
            first = stretch.speech.start // activity.window
            last = -(-stretch.speech.end // activity.window)
            if probability is None:
                failed += stretch.speech.samples / activity.rate
            elif probability >= SPEECH_FROM:
                found[stretch.row, first:last] = 1.0
    notes = [f"{failed:.1f} s of loud sound could not be judged, and make no turn"] * (failed > 0)
    return replace(activity, probabilities=found), notes


def _loud(activity: VoiceActivity, row: int, options: TurnOptions) -> list[Speech]:
    if any(row == repeating for repeating, _, _ in activity.repeats):
        # A channel that repeats another: what it has beside that was found by comparing them.
        return []
    turns = find_turns(
        activity.speech(row, options),
        activity.levels[row],
        options,
        rate=activity.rate,
        hop=activity.hop,
        samples=activity.samples,
    )
    taken: list[Speech] = list(turns.spans)
    if activity.foreign is not None:
        taken += in_samples(runs(activity.foreign[row]), activity.window, activity.samples)
    return loud_stretches(
        activity.levels[row],
        taken,
        rate=activity.rate,
        hop=activity.hop,
        samples=activity.samples,
    )


def _clips(
    recording: Recording,
    activity: VoiceActivity,
    options: TurnOptions,
    stretches: Sequence[_Stretch],
) -> Iterator[tuple[list[_Stretch], list[FloatArray]]]:
    """Stretches that are a channel's own, a few at a time, with what the head gets of them."""
    signals = activity.plan.signals
    rate = activity.rate
    context = round(options.padding_seconds * rate)
    # With several signals, all of them around the stretch, to see whose it is.
    reach = max(context, round(MAX_DELAY_SECONDS * rate)) if len(signals) > 1 else context
    cuts = [
        Cut(row, max(0, item.speech.start - reach), min(activity.samples, item.speech.end + reach))
        for item in stretches
        for row in range(len(signals))
    ]
    order = sorted(range(len(cuts)), key=lambda index: cuts[index].end)
    blocks = (signal_rows(block, signals) for block in recording.blocks())
    parts: dict[int, list[tuple[int, FloatArray]]] = {}
    group: list[_Stretch] = []
    clips: list[FloatArray] = []
    cut_samples = cut_out(blocks, [cuts[index] for index in order])
    for index, samples in zip(order, cut_samples, strict=True):
        number, row = divmod(index, len(signals))
        rows = parts.setdefault(number, [])
        rows.append((row, samples))
        if len(rows) < len(signals):
            continue
        item = stretches[number]
        block = np.stack([part for _, part in sorted(parts.pop(number), key=lambda pair: pair[0])])
        begin = item.speech.start - cuts[index].start
        end = item.speech.end - cuts[index].start
        if len(signals) > 1 and carried_by_another(block, item.row, begin, end, rate):
            continue
        clip = block[item.row, max(0, begin - context) : end + context]
        group.append(item)
        clips.append(resample(clip, rate, SAMPLE_RATE))
        if len(group) == _TOGETHER:
            yield group, clips
            group, clips = [], []
    if group:
        yield group, clips


def _unasked(activity: VoiceActivity, stretches: Sequence[_Stretch]) -> list[str]:
    seconds = sum(item.speech.samples for item in stretches) / activity.rate
    if seconds < WORTH_A_WARNING_SECONDS:
        return []
    return [
        f"{seconds:.1f} s are loud, though the speech detector found none in them; this model has "
        "no SpeechActivity head that could judge them, so they make no turn"
    ]


__all__ = ["Judge", "JudgeSource", "look_again"]
