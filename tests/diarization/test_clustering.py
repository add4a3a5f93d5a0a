"""How many clusters there are, and which vectors are one speaker's."""

from __future__ import annotations

import numpy as np

from speechmeta.diarization.clustering import cluster, cluster_into
from speechmeta.diarization.embeddings import Matrix, unit


def voices(sizes: tuple[int, ...], odd: int = 0) -> Matrix:
    """Unit vectors near an axis a voice, and single ones far from all of them."""
    random = np.random.default_rng(0)
    axes = np.eye(sum(map(bool, sizes)) + odd, 24)
    axes[1:2, 0] = 0.8  # the first two voices are alike
    counts = [*sizes, *[1] * odd]
    made = np.concatenate([np.repeat(axes[i : i + 1], n, 0) for i, n in enumerate(counts)])
    return unit(made + random.normal(0, 0.02, made.shape))


def test_an_odd_window_is_no_speaker_where_the_number_is_known() -> None:
    vectors = voices((20, 15), odd=2)
    assert sorted(np.bincount(cluster(vectors, 0.4, 2)))[0] < 3, "the plain cut takes an odd one"
    labels = cluster_into(vectors, 0.4, 2, smallest=3, alike=0.2)
    assert len(set(labels[:20])) == len(set(labels[20:35])) == 1
    assert labels[0] != labels[20]
    assert set(labels) == {0, 1}


def test_somebody_who_says_very_little_is_still_counted() -> None:
    vectors = voices((20, 1))
    labels = cluster_into(vectors, 0.4, 2, smallest=3, alike=0.2)
    assert labels[-1] not in labels[:20]
    assert len(cluster_into(vectors[:2], 0.4, 9, smallest=3, alike=0.2)) == 2
