"""Who speaks when on one channel: windows of speech, embedded and clustered.

Overlapping speech is not separated: each moment belongs to one speaker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from speechmeta.audio.types import FloatArray
from speechmeta.diarization.embeddings import Matrix, unit
from speechmeta.errors import UsageError
from speechmeta.segmentation.chunking import quietest
from speechmeta.segmentation.turns import Speech

WINDOW_SECONDS = 1.5
HOP_SECONDS = 0.75
SHORTEST_SECONDS = 0.4
"""A run of speech shorter than this is not embedded; it goes to the speaker beside it."""

SMALLEST_SPEAKER_SECONDS = 2.0
"""A cluster with less speech than this is not a speaker of its own, unless a number was asked."""

MAX_SPEAKERS = 10
"""Most speakers that are found when no number was asked for."""

SWITCH_COST = 0.15
"""Gain in cosine similarity, summed over windows, that a change of speaker has to bring."""

_DIRECT = 1200
_GROUP = 12

Labels = npt.NDArray[np.int64]
EmbedWindows = Callable[[Sequence[tuple[int, int]]], Matrix]


def diarize(
    speech: Sequence[Speech],
    embed: EmbedWindows,
    levels: FloatArray,
    *,
    distance: float,
    rate: int,
    hop: int,
    speakers: int | None = None,
) -> list[Speech]:
    """Divides speech among speakers, numbered from 0 in the order in which they first talk.

    Args:
        speech: runs in order of time; their speakers do not count.
        embed: gives unit vectors (n, size) of n such stretches.
        levels: mean power of every `hop` samples, to cut where it is quiet.
        distance: cosine distance from which two clusters are two speakers.
        rate: Hz of the samples.
        speakers: how many there are; None to find out.

    Raises:
        UsageError: fewer than one speaker was asked for.
    """
    if speakers is not None and speakers < 1:
        raise UsageError(f"{speakers} speakers were asked for", "give a number from 1")
    windows = [_windows(run.start, run.end, rate) for run in speech]
    flat = [window for group in windows for window in group]
    if speakers == 1 or not flat:
        return [Speech(run.start, run.end) for run in speech]
    vectors = embed(flat)
    labels = cluster(vectors, distance, speakers)
    if speakers is None:
        labels = absorb_small(vectors, labels, SMALLEST_SPEAKER_SECONDS / HOP_SECONDS)
    centroids = centroids_of(vectors, labels)
    found: list[Speech] = []
    place = 0
    for run, group in zip(speech, windows, strict=True):
        likeness = vectors[place : place + len(group)] @ centroids.T
        place += len(group)
        path = smooth(likeness, SWITCH_COST) if group else np.zeros(0, np.int64)
        found += _divide(run.start, run.end, group, path, levels, hop)
    return _renumber(_fill(found))


def cluster(vectors: Matrix, distance: float, speakers: int | None = None) -> Labels:
    """Agglomerative clustering of unit vectors (n, size) by mean cosine distance.

    Args:
        distance: clusters further apart than this are different speakers.
        speakers: the number of clusters instead.

    Returns:
        (n,) numbers from 0; fewer clusters than asked where there are fewer vectors.
    """
    if len(vectors) <= _DIRECT:
        return _agglomerate(vectors, None, distance, speakers)
    # Distances of all pairs would need memory by the square of the call's length. Long calls
    # are first grouped in stretches, and the groups are clustered.
    groups = np.zeros(len(vectors), np.int64)
    count = 0
    for first in range(0, len(vectors), _DIRECT):
        part = vectors[first : first + _DIRECT]
        local = _agglomerate(part, None, distance, max(1, len(part) // _GROUP))
        groups[first : first + _DIRECT] = local + count
        count += int(local.max()) + 1
    means = centroids_of(vectors, groups)
    if count > _DIRECT:
        return cluster(means, distance, speakers)[groups]
    return _agglomerate(means, np.bincount(groups), distance, speakers)[groups]


def absorb_small(vectors: Matrix, labels: Labels, smallest: float) -> Labels:
    """Gives the vectors of clusters smaller than `smallest` to the nearest larger one, and
    keeps the `MAX_SPEAKERS` largest."""
    sizes = np.bincount(labels)
    ranked = np.argsort(-sizes, kind="stable")
    keep = [int(label) for label in ranked[:MAX_SPEAKERS] if sizes[label] >= smallest]
    keep = keep or [int(ranked[0])]
    centroids = np.stack([unit(vectors[labels == label].mean(0)[None])[0] for label in keep])
    result = np.empty_like(labels)
    nearest = np.argmax(vectors @ centroids.T, axis=1)
    for index, label in enumerate(labels):
        result[index] = keep.index(int(label)) if int(label) in keep else nearest[index]
    return result


def centroids_of(vectors: Matrix, labels: Labels) -> Matrix:
    """Unit vectors (clusters, size)."""
    return unit(np.stack([vectors[labels == label].mean(0) for label in range(labels.max() + 1)]))


def smooth(likeness: Matrix, switch_cost: float) -> Labels:
    """The best sequence of speakers for consecutive windows, where every change has a price.

    Args:
        likeness: (windows, speakers).
    """
    count, speakers = likeness.shape
    score = likeness[0].copy()
    back = np.zeros((count, speakers), np.int64)
    for index in range(1, count):
        best = int(np.argmax(score))
        moved = score[best] - switch_cost
        stay = score >= moved
        back[index] = np.where(stay, np.arange(speakers), best)
        score = np.where(stay, score, moved) + likeness[index]
    path = np.zeros(count, np.int64)
    path[-1] = int(np.argmax(score))
    for index in range(count - 1, 0, -1):
        path[index - 1] = back[index, path[index]]
    return path


def _agglomerate(
    vectors: Matrix, weights: Labels | None, distance: float, speakers: int | None
) -> Labels:
    from sklearn.cluster import AgglomerativeClustering

    count = len(vectors)
    if count == 1 or (speakers is not None and speakers >= count):
        return np.arange(count, dtype=np.int64)
    if weights is not None:
        # Average linkage counts every vector once; a group stands for as many as it has.
        copies = np.repeat(np.arange(count), np.maximum(1, weights // _GROUP))
        spread = _agglomerate(vectors[copies], None, distance, speakers)
        first = np.searchsorted(copies, np.arange(count))
        return _compact(spread[first])
    model = AgglomerativeClustering(
        n_clusters=speakers,
        metric="cosine",
        linkage="average",
        distance_threshold=None if speakers is not None else distance,
    )
    return _compact(np.asarray(model.fit_predict(vectors), dtype=np.int64))


def _compact(labels: Labels) -> Labels:
    return np.asarray(np.unique(labels, return_inverse=True)[1], dtype=np.int64)


def _windows(start: int, end: int, rate: int) -> list[tuple[int, int]]:
    """Windows of 1.5 s about every 0.75 s; one shorter window for a shorter run."""
    length, hop = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
    if end - start < SHORTEST_SECONDS * rate:
        return []
    if end - start <= length:
        return [(start, end)]
    count = -(-(end - start - length) // hop) + 1
    firsts = np.linspace(start, end - length, count).round().astype(int)
    return [(int(first), int(first) + length) for first in firsts]


def _divide(
    start: int,
    end: int,
    windows: Sequence[tuple[int, int]],
    path: Labels,
    levels: FloatArray,
    hop: int,
) -> list[Speech]:
    """One run of speech, cut at the quietest point where the speaker changes."""
    if not windows:
        return [Speech(start, end, -1)]
    parts = []
    since = start
    for index in range(1, len(windows)):
        if path[index] == path[index - 1]:
            continue
        before = sum(windows[index - 1]) // 2
        after = sum(windows[index]) // 2
        reach = (after - before) // 2
        cut = quietest(levels, hop, max(since + 1, before - reach), min(end - 1, after + reach))
        parts.append(Speech(since, cut, int(path[index - 1])))
        since = cut
    parts.append(Speech(since, end, int(path[-1])))
    return parts


def _fill(regions: list[Speech]) -> list[Speech]:
    """Gives runs that were too short to tell (-1) to the speaker of the nearest other run."""
    known = [region for region in regions if region.speaker >= 0]
    if not known:
        return [Speech(region.start, region.end, 0) for region in regions]

    def nearest(region: Speech) -> int:
        gaps = [max(other.start - region.end, region.start - other.end) for other in known]
        return known[gaps.index(min(gaps))].speaker

    return [
        region if region.speaker >= 0 else Speech(region.start, region.end, nearest(region))
        for region in regions
    ]


def _renumber(regions: list[Speech]) -> list[Speech]:
    order = {
        speaker: number
        for number, speaker in enumerate(dict.fromkeys(region.speaker for region in regions))
    }
    return [Speech(region.start, region.end, order[region.speaker]) for region in regions]
