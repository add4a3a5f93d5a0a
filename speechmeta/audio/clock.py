"""The recording's own clock: where each decoded frame belongs, and what is missing between.

Containers give each packet a time. Where packets are absent or cannot be decoded the frames
that follow still have theirs, and silence stands in for what is missing, so that no later
time in a report comes early.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from speechmeta.audio.types import FloatArray

GAP_SECONDS = 0.05
"""A frame that is late by less keeps to its predecessor: recorders that stamp packets with
the wall clock jitter by a packet or so. What is missing adds up until it is seen."""

LOST_GAP_SECONDS = 0.002
"""The same after a packet that could not be decoded, when a gap is expected."""

BACK_SECONDS = 0.5
"""From a step back as large as this the times are those of another clock (a joined stream)."""

LONGEST_GAP_SECONDS = 3600.0
"""A longer step forward is not a pause but another clock, or damage."""

_SILENCE_PIECE = 48_000


@dataclass
class Gap:
    """A stretch of a recording without sound of its own, in samples."""

    start: int
    end: int


@dataclass(frozen=True)
class Missing:
    """A stretch in seconds without sound of its own, of `channels` channels from the first."""

    start: float
    end: float
    first_channel: int
    channels: int


def silence(channels: int, samples: int) -> Iterator[FloatArray]:
    """Zeros (channels, n) of this many samples in pieces that need little memory."""
    while samples > 0:
        count = min(samples, _SILENCE_PIECE)
        yield np.zeros((channels, count), np.float32)
        samples -= count


@dataclass
class Clock:
    """Places frames one after the other.

    Attributes:
        rate: Hz of the samples.
        zero: seconds, in the packets' times, at which the recording begins.
        position: samples so far, silence included.
        gaps: the silence that was put in.
        jumps: positions in samples at which the packets' times went on from another clock.
    """

    rate: int
    zero: float
    position: int = 0
    gaps: list[Gap] = field(default_factory=list)
    jumps: list[int] = field(default_factory=list)
    _shift: int = 0
    _lost: float = 0.0

    def lose(self, seconds: float) -> None:
        """Notes a packet of that length that could not be decoded."""
        self._lost += max(0.0, seconds)

    def place(self, time: float | None, samples: int) -> int:
        """Takes the next frame; returns how many samples of silence belong before it.

        Args:
            time: the frame's in seconds; None where the container has none.
            samples: its length.
        """
        lost, self._lost = self._lost, 0.0
        gap = round(lost * self.rate)
        if time is not None:
            late = round((time - self.zero) * self.rate) + self._shift - self.position
            if late > LONGEST_GAP_SECONDS * self.rate or late < -BACK_SECONDS * self.rate:
                self._shift -= late - gap
                self.jumps.append(self.position)
            else:
                least = LOST_GAP_SECONDS if lost else GAP_SECONDS
                gap = late if late >= least * self.rate else 0
        self._fill(gap)
        self.position += samples
        return gap

    def finish(self) -> int:
        """Silence for what was lost after the last frame, in samples."""
        gap = round(self._lost * self.rate)
        self._lost = 0.0
        self._fill(gap)
        return gap

    def _fill(self, gap: int) -> None:
        if gap <= 0:
            return
        if self.gaps and self.gaps[-1].end == self.position:
            self.gaps[-1].end += gap
        else:
            self.gaps.append(Gap(self.position, self.position + gap))
        self.position += gap
