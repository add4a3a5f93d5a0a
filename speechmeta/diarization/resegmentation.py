"""Who talks in each moment: evidence of overlapping windows, and the best path through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechmeta.audio.types import FloatArray
from speechmeta.diarization.embeddings import Matrix
from speechmeta.segmentation.chunking import quietest
from speechmeta.segmentation.turns import Speech

Labels = npt.NDArray[np.int64]
Windows = npt.NDArray[np.int64]

FRAME_SECONDS = 0.08
CUT_SECONDS = 0.2
"""A change of speaker is moved at most this far to where it is quiet."""


@dataclass(frozen=True)
class Frames:
    """Speech in short steps, in order of time.

    Attributes:
        starts, ends: (frames,) in samples. runs: (frames,) the run each lies in.
    """

    starts: Labels
    ends: Labels
    runs: Labels

    @property
    def middles(self) -> Labels:
        return (self.starts + self.ends) // 2

    def pauses(self) -> Labels:
        """(frames,) samples between each frame and the one before; 0 for the first."""
        return np.concatenate([[0], self.starts[1:] - self.ends[:-1]])


def frames_of(speech: Sequence[Speech], rate: int) -> Frames:
    """Frames of about 80 ms; at least one of every run."""
    step = round(FRAME_SECONDS * rate)
    starts, ends, runs = [], [], []
    for index, run in enumerate(speech):
        edges = np.linspace(run.start, run.end, max(1, round(run.samples / step)) + 1)
        edges = edges.round().astype(np.int64)
        starts.append(edges[:-1])
        ends.append(edges[1:])
        runs.append(np.full(len(edges) - 1, index, np.int64))
    if not runs:
        empty = np.zeros(0, np.int64)
        return Frames(empty, empty, empty)
    return Frames(np.concatenate(starts), np.concatenate(ends), np.concatenate(runs))


def evidence(frames: Frames, groups: Sequence[tuple[Windows, Matrix, float]]) -> Matrix:
    """How much each frame sounds like each speaker, (frames, speakers).

    The mean of the windows around it; one counts the more the nearer its middle is.

    Args:
        groups: windows (n, 2) in samples, what each is worth for each speaker (n, speakers),
            and the weight of the group.
    """
    speakers = groups[0][1].shape[1]
    total = np.zeros((len(frames.starts), speakers))
    weights = np.zeros(len(frames.starts))
    middles = frames.middles
    for windows, worth, weight in groups:
        for (start, end), row in zip(windows, worth, strict=True):
            first, last = np.searchsorted(middles, [start, end])
            away = np.abs(middles[first:last] - (start + end) / 2) / max(1, end - start)
            near = weight * (1.05 - 2 * away)
            total[first:last] += near[:, None] * row
            weights[first:last] += near
    known = weights > 0
    total[known] /= weights[known, None]
    return total


def change_costs(
    frames: Frames,
    levels: FloatArray,
    hop: int,
    rate: int,
    inside: float,
    pause: float,
    fade_seconds: float,
) -> Matrix:
    """What a change of speaker before each frame costs, (frames,).

    Inside a run it is cheaper the quieter the place; over a pause the price falls with its
    length from `pause`.

    Args:
        levels: mean power of every `hop` samples.
    """
    places = np.clip(frames.starts // hop, 0, len(levels) - 1)
    reach = max(1, round(0.016 * rate / hop))
    sums = np.concatenate([[0.0], np.cumsum(levels, dtype=np.float64)])
    low, high = np.maximum(places - reach, 0), np.minimum(places + reach, len(levels))
    local = (sums[high] - sums[low]) / np.maximum(1, high - low)
    loud = np.percentile(local, 80) if len(local) else 1.0
    # From 0 at 30 dB below the louder frames to 1 at their level.
    height = np.clip(1 + np.log10(np.maximum(local, 1e-12) / max(loud, 1e-12)) / 3, 0.0, 1.0)
    gaps = frames.pauses() / rate
    return np.where(gaps > 0, pause * np.exp(-gaps / fade_seconds), inside * (0.3 + 0.7 * height))


def short_runs(frames: Frames, rate: int, seconds: float) -> npt.NDArray[np.bool_]:
    """Whether each frame (frames,) lies in a run shorter than `seconds`."""
    first, last = _bounds(frames)
    short = (frames.ends[last] - frames.starts[first]) / rate < seconds
    return np.repeat(short, last - first + 1)


def ease_short_runs(
    frames: Frames, costs: Matrix, rate: int, seconds: float, pause: float, ease: float
) -> Matrix:
    """Costs (frames,) with `ease` taken off before and after runs that stand alone.

    What is shorter than `seconds`, between pauses shorter than `pause`, is more often said by a
    listener than by whoever is talking.
    """
    eased = costs.copy()
    first, last = _bounds(frames)
    gaps = frames.pauses() / rate
    length = (frames.ends[last] - frames.starts[first]) / rate
    for index in np.flatnonzero(length < seconds):
        if 0 < index < len(first) - 1:
            around = first[index], first[index + 1]
            if max(gaps[around[0]], gaps[around[1]]) < pause:
                eased[list(around)] -= ease
    return eased


def _bounds(frames: Frames) -> tuple[Labels, Labels]:
    """The first and the last frame of each run, (runs,) each."""
    first = np.flatnonzero(np.diff(frames.runs, prepend=-1))
    return first, np.append(first, len(frames.runs))[1:] - 1


def best_path(worth: Matrix, costs: Matrix) -> Labels:
    """The best sequence of speakers (frames,), where every change has its price.

    Args:
        worth: (frames, speakers). costs: (frames,) of a change before each frame; below 0 where
            one is likelier than none.
    """
    count, speakers = worth.shape
    score = worth[0].copy()
    back = np.zeros((count, speakers), np.int64)
    if speakers == 1:
        return np.zeros(count, np.int64)
    own = np.arange(speakers)
    for index in range(1, count):
        second, best = np.argsort(score, kind="stable")[-2:]
        # Whoever talked cannot change to himself.
        before = np.where(own == best, second, best)
        moved = score[before] - costs[index]
        stay = score >= moved
        back[index] = np.where(stay, own, before)
        score = np.where(stay, score, moved) + worth[index]
    path = np.zeros(count, np.int64)
    path[-1] = int(np.argmax(score))
    for index in range(count - 1, 0, -1):
        path[index - 1] = back[index, path[index]]
    return path


def segments_of(
    frames: Frames, path: Labels, levels: FloatArray, hop: int, rate: int
) -> list[Speech]:
    """Stretches of one speaker within a run, cut at the quietest point near the change."""
    found: list[Speech] = []
    reach = round(CUT_SECONDS * rate)
    last = -1
    for start, end, run, speaker in zip(frames.starts, frames.ends, frames.runs, path, strict=True):
        cut = int(start)
        if found and run == last:
            before = found[-1]
            if before.speaker == speaker:
                found[-1] = Speech(before.start, int(end), int(speaker))
                continue
            first, latest = max(before.start + hop, cut - reach), min(int(end) - hop, cut + reach)
            if latest > first:
                cut = quietest(levels, hop, first, latest)
            found[-1] = Speech(before.start, cut, before.speaker)
        found.append(Speech(cut, int(end), int(speaker)))
        last = run
    return found
