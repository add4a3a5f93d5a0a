"""Moments of a shared channel in which two talk at once, and what they do to its turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from speechmeta.audio.recording import Cut, Recording
from speechmeta.diarization.second_speaker import (
    CHANGE_SECONDS,
    changes,
    overlapped,
    second_speakers,
)
from speechmeta.pipeline.cutting import cut_clips
from speechmeta.segmentation.chunking import divide
from speechmeta.segmentation.turns import Span, Speech
from speechmeta.segmentation.voice_activity import VoiceActivity

if TYPE_CHECKING:
    from speechmeta.diarization.overlap import OverlapDetector

LONGEST_SECONDS = 20.0
"""Longer speech is looked at in pieces."""

MARGIN_SECONDS = 3.0
"""Sound before and after a change of speaker that the detector gets too."""

JOIN_SECONDS = 1.0
REACH_SECONDS = 0.2
"""A turn that begins or ends this near to a second voice of the same speaker is that voice."""


@dataclass(frozen=True)
class Told:
    """A turn, and the part of it from `first` to `last` that no other turn of its channel has."""

    span: Span
    first: int
    last: int


def second_voices(
    recording: Recording,
    activity: VoiceActivity,
    row: int,
    speech: Sequence[Speech],
    detector: OverlapDetector,
) -> list[Speech]:
    """Runs of whoever talks beside the speaker of `speech`, from the sound itself.

    Raises:
        AudioError: the file is no longer what it was.
    """
    rate = activity.rate
    margin, join = round(MARGIN_SECONDS * rate), round(JOIN_SECONDS * rate)
    reach = round(CHANGE_SECONDS * rate)
    whole: list[tuple[int, int]] = []
    for before, after in changes(speech, rate):
        start, end = max(before.start, before.end - reach), min(after.end, after.start + reach)
        if whole and start - whole[-1][1] < join:
            whole[-1] = (whole[-1][0], max(whole[-1][1], end))
        else:
            whole.append((start, end))
    limit = round(LONGEST_SECONDS * rate)
    pieces = [
        piece
        for start, end in whole
        for piece in divide(start, end, limit, activity.levels[row], activity.hop)
    ]
    cuts = [
        Cut(row, max(0, start - margin), min(activity.samples, end + margin))
        for start, end in pieces
    ]
    regions: list[tuple[int, int]] = []
    clips = cut_clips(recording, activity.plan.signals, cuts)
    for (start, end), cut, clip in zip(pieces, cuts, clips, strict=True):
        told = overlapped(detector.probabilities(clip), detector.threshold, cut.start, rate)
        regions += [(max(start, a), min(end, b)) for a, b in told if min(end, b) > max(start, a)]
    return second_speakers(speech, regions, rate)


def with_second_voices(spans: Sequence[Span], seconds: Sequence[Speech], rate: int) -> list[Told]:
    """Turns that begin earlier or end later by a second voice.

    Their clips stay as they were: voices are not separated, and what is said there by two is told
    by the turn that has the moment for itself.

    Args:
        spans: turns without overlap, in order of time. rate: Hz.
    """
    told = [Told(span, span.start, span.end) for span in spans]
    reach = round(REACH_SECONDS * rate)
    for run in seconds:
        for index, turn in enumerate(told):
            span = turn.span
            if span.speaker != run.speaker:
                continue
            if run.start < span.start <= run.end + reach:
                told[index] = replace(turn, span=replace(span, start=run.start))
            elif run.start - reach <= span.end < run.end:
                told[index] = replace(turn, span=replace(span, end=run.end))
    return sorted(told, key=lambda turn: (turn.span.start, turn.span.end))
