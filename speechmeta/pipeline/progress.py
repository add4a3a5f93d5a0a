"""Where the analysis of a call stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Stage = Literal["reading", "listening", "speakers", "turns"]

_ENDS: dict[Stage, float] = {"reading": 0.02, "listening": 0.12, "speakers": 0.15, "turns": 1.0}
"""Shares of the time that have gone at the end of each stage, as measured with the bundled
checkpoint on a CPU; a display that is wrong about them corrects itself."""


@dataclass(frozen=True)
class CallProgress:
    """One moment of an analysis.

    Attributes:
        stage: `reading` the recording, `listening` for speech, telling `speakers` apart, or
            taking `turns` to words and labels.
        seconds: of audio that this stage is through with.
        duration: of the recording in seconds; None while it is not known.
        turns_done, turns: counts; 0 before the turns are found.
    """

    stage: Stage
    seconds: float
    duration: float | None
    turns_done: int = 0
    turns: int = 0

    @property
    def share(self) -> float:
        """How much of the work on this call is done, from 0 to 1, over all stages."""
        stages = list(_ENDS)
        place = stages.index(self.stage)
        begin = _ENDS[stages[place - 1]] if place else 0.0
        part = min(1.0, self.seconds / self.duration) if self.duration else 0.0
        return begin + (_ENDS[self.stage] - begin) * part


OnProgress = Callable[[CallProgress], None]

_RUNS: tuple[Stage, ...] = ("reading", "listening", "speakers")


def stage_of(run: int) -> Stage:
    """What the n-th run through a recording is for; the last is told by its turns."""
    return _RUNS[min(run, len(_RUNS) - 1)]


__all__ = ["CallProgress", "OnProgress", "Stage", "stage_of"]
