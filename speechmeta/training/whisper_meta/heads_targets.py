"""What a crop teaches each label head, and with which weight.

Targets are distributions: an age near a bound belongs a little to the next group, a child's voice
says little of its gender, and ordinary talk without a label counts as Neutral, weakly. Weights
make the classes of a field equal and keep a few talkative speakers from being a class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import ConfigDict

from speechmeta.schema import DEFAULT_LABEL_SETS
from speechmeta.training.manifest import Clip
from speechmeta.training.splits import CHILD_YEARS

SPEECH = "SpeechActivity"
TAUGHT: dict[str, list[str]] = {
    SPEECH: ["true", "false"],
    "Gender": ["Male", "Female"],
    "Age": ["Young", "Middle-Age", "Senior"],
    "Accent": list(DEFAULT_LABEL_SETS["Accent"]),
    "Emotion": ["Happy", "Sad", "Anger", "Neutral"],
}
"""Fields and their labels in the order of a head's logits. Nobody recorded `Frustrated`."""

AGE_BOUNDS = {30.0: ("Young", "Middle-Age"), 60.0: ("Middle-Age", "Senior")}


@dataclass(frozen=True)
class TargetOptions:
    """
    Attributes:
        age_blur: years around a bound within which both groups are right to some degree.
        child_gender: what the labelled gender of a child counts in its target.
        neutral_share: of the Neutral class's weight, what unlabelled ordinary talk has.
        speaker_share: the most of a class that one speaker may have, where there are enough.
        not_ordinary: sources whose unlabelled speech is not ordinary talk (acted, single words).
        no_emotion: sources whose emotions are not taught.
        speech_weights: by source, how much a crop counts for SpeechActivity; 1 where not named.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    age_blur: float = 2.0
    child_gender: float = 0.75
    neutral_share: float = 0.2
    speaker_share: float = 0.05
    not_ordinary: Sequence[str] = (
        "ravdess", "savee", "emodb-german", "emogator-bursts", "fsdd", "alphanumeric-duke",
    )  # fmt: skip
    no_emotion: Sequence[str] = ()
    speech_weights: Mapping[str, float] = field(default_factory=lambda: {"emogator-bursts": 0.5})


@dataclass(frozen=True)
class Targets:
    """Of one field.

    Attributes:
        wanted: (crops, labels), rows sum to 1, or to 0 where nothing is known.
        weights: (crops,), with a mean of 1 over those that are known.
    """

    wanted: np.ndarray
    weights: np.ndarray


def is_child(clip: Clip) -> bool:
    """Whether the speaker is known to be so young that the voice doesn't tell the gender."""
    return clip.years is not None and clip.years < CHILD_YEARS


def clip_target(clip: Clip | None, name: str, options: TargetOptions) -> np.ndarray:
    """The distribution over a field's labels that a clip teaches; zeros where none.

    Args:
        clip: None for made-up audio without speech.
    """
    labels = TAUGHT[name]
    target = np.zeros(len(labels))
    if name == SPEECH:
        target[0 if clip is not None and clip.speech else 1] = 1.0
        return target
    label = None if clip is None else clip.labels.get(name)
    if clip is None or label not in labels:
        return target
    if name == "Emotion" and clip.dataset in options.no_emotion:
        return target
    target[labels.index(label)] = 1.0
    if name == "Gender" and is_child(clip):
        target = options.child_gender * target + (1 - options.child_gender) * (1 - target)
    if name == "Age" and clip.years is not None:
        for bound, (below, above) in AGE_BOUNDS.items():
            # Somebody of 30.0 to 30.99 years says 30.
            distance = clip.years + 0.5 - bound
            if options.age_blur and abs(distance) < options.age_blur:
                share = 0.5 + distance / (2 * options.age_blur)
                target[:] = 0.0
                target[labels.index(below)], target[labels.index(above)] = 1 - share, share
    return target


def field_targets(
    clips: Sequence[Clip | None], name: str, options: TargetOptions | None = None
) -> Targets:
    """Targets and weights of all crops for one field.

    Args:
        clips: of each crop; None for made-up audio without speech.
    """
    options = options or TargetOptions()
    wanted = np.stack([clip_target(clip, name, options) for clip in clips])
    classes = wanted.argmax(1)
    known = wanted.sum(1) > 0
    weights = np.zeros(len(clips))
    for label in range(wanted.shape[1]):
        rows = np.flatnonzero(known & (classes == label))
        if len(rows):
            weights[rows] = _by_speaker(
                [clips[row] for row in rows.tolist()], options.speaker_share
            )
    if name == SPEECH:
        for row, clip in enumerate(clips):
            weights[row] *= options.speech_weights.get(clip.dataset, 1.0) if clip else 1.0
    if name == "Emotion":
        neutral = TAUGHT[name].index("Neutral")
        rows = np.flatnonzero([is_ordinary(clip, options) for clip in clips])
        acted = weights[known & (classes == neutral)].sum()
        if len(rows) and acted:
            share = options.neutral_share
            weights[known & (classes == neutral)] *= 1 - share
            part = _by_speaker([clips[row] for row in rows.tolist()], options.speaker_share)
            weights[rows] = part * acted * share
            wanted[rows, neutral] = 1.0
    counted = weights > 0
    return Targets(wanted, weights / weights[counted].mean() if counted.any() else weights)


def is_ordinary(clip: Clip | None, options: TargetOptions) -> bool:
    """Whether a clip is ordinary talk whose feeling nobody noted."""
    return (
        clip is not None
        and clip.speech
        and "Emotion" not in clip.labels
        and clip.dataset not in options.not_ordinary
    )


def _by_speaker(clips: Sequence[Clip | None], most: float) -> np.ndarray:
    """Weights that sum to 1: speakers by the root of their clips, none above `most` if possible."""
    names = [
        ("", "") if clip is None else (clip.dataset, clip.speaker or str(clip.audio))
        for clip in clips
    ]
    speakers, inverse, counts = np.unique(
        np.array([" ".join(name) for name in names]), return_inverse=True, return_counts=True
    )
    mass = np.sqrt(counts.astype(float))
    mass /= mass.sum()
    limit = max(most, 1.5 / len(speakers))
    for _ in range(20):
        mass = np.minimum(mass, limit)
        mass /= mass.sum()
    shares: np.ndarray = (mass / counts)[inverse]
    return shares
