"""Which embeddings belong to one speaker, and how many speakers there are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from speechmeta.diarization.embeddings import Matrix, unit

MAX_SPEAKERS = 10
"""Most speakers that are found when no number was asked for."""

_DIRECT = 1200
_GROUP = 12
_MOST_ODD = 20

Labels = npt.NDArray[np.int64]


def cluster(vectors: Matrix, distance: float, speakers: int | None = None) -> Labels:
    """Agglomerative clustering of unit vectors (n, size) by mean cosine distance.

    Args:
        distance: clusters further apart than this are different speakers.
        speakers: the number of clusters instead.

    Returns:
        (n,) numbers from 0; fewer clusters than asked where there are fewer vectors.
    """
    return _cuts(vectors, distance)(speakers)


def cluster_into(
    vectors: Matrix, distance: float, speakers: int, smallest: float, alike: float
) -> Labels:
    """As many clusters as there are known to be speakers, of at least `smallest` vectors each.

    The last joins of a call are often those of single odd windows (a laugh, two voices at once):
    cut into two right away, one speaker would be such a window and the other everybody. So it is
    cut into more until enough clusters are large, and the small ones go to the nearest of those.
    Where that halves a voice, or never happens, somebody says very little: the plain cut stands.

    Args:
        distance: see `cluster`; for calls that are clustered in stretches.
        alike: cosine distance up to which two clusters are halves of a voice.
    """
    cut = _cuts(vectors, distance)
    plain = cut(speakers)
    for count in range(speakers, min(len(vectors), speakers + _MOST_ODD) + 1):
        labels = plain if count == speakers else cut(count)
        if (np.bincount(labels) >= smallest).sum() >= speakers:
            labels = absorb_small(vectors, labels, smallest, speakers)
            centroids = centroids_of(vectors, labels)
            apart = 1 - centroids @ centroids.T
            np.fill_diagonal(apart, np.inf)
            return labels if apart.min() > alike else plain
    return plain


def absorb_small(
    vectors: Matrix, labels: Labels, smallest: float, most: int = MAX_SPEAKERS
) -> Labels:
    """Gives the vectors of clusters smaller than `smallest` to the nearest larger one, and
    keeps the `most` largest."""
    sizes = np.bincount(labels)
    ranked = np.argsort(-sizes, kind="stable")
    keep = [int(label) for label in ranked[:most] if sizes[label] >= smallest]
    keep = keep or [int(ranked[0])]
    centroids = np.stack([unit(vectors[labels == label].mean(0)[None])[0] for label in keep])
    result = np.empty_like(labels)
    nearest = np.argmax(vectors @ centroids.T, axis=1)
    for index, label in enumerate(labels):
        result[index] = keep.index(int(label)) if int(label) in keep else nearest[index]
    return result


def centroids_of(vectors: Matrix, labels: Labels) -> Matrix:
    """Unit vectors (clusters, size); labels below 0 belong to none."""
    return unit(np.stack([vectors[labels == label].mean(0) for label in range(labels.max() + 1)]))


def _cuts(vectors: Matrix, distance: float) -> Callable[[int | None], Labels]:
    """Cuts the vectors into a number of clusters, or by `distance`, as often as it is asked."""
    if len(vectors) <= _DIRECT:
        return partial(_agglomerate, vectors, None, distance)
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
        of_groups = _cuts(means, distance)
    else:
        of_groups = partial(_agglomerate, means, np.bincount(groups), distance)
    return lambda speakers: of_groups(speakers)[groups]


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
