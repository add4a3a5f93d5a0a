"""How many speakers there are: clusters are joined as long as one voice explains them better.

The two-covariance model of speaker verification (probabilistic linear discriminant analysis; Ioffe
2006, Brümmer and de Villiers 2010): a voice is a point drawn around the origin, further out in
directions in which voices differ, and each window of it another draw around that point, with unit
variance. So how long two clusters are counts as well as how far apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speechmeta.diarization.clustering import Labels, cluster
from speechmeta.diarization.embeddings import Matrix

_FIRST_CLUSTERS = 250
"""A call with more windows is clustered by distance into as many before."""


@dataclass(frozen=True)
class VoiceSpread:
    """How voices lie among unit vectors.

    Attributes:
        between: (size,) variance of voices in each direction, where windows of one have 1.
        share: of a window that counts as news. Neighbours overlap, and a voice goes on as it was.
        bias: what one voice has to explain better, in nats; below 0 it may explain less.
    """

    between: Matrix
    share: float
    bias: float

    def evidence(self, sums: Matrix, counts: Matrix) -> Matrix:
        """Log evidence (clusters,) of one voice against none, of sums (clusters, size) of unit
        vectors and their numbers (clusters,)."""
        scale = np.sqrt((1 + self.between).sum())
        known = 1 + self.share * counts[:, None] * self.between
        pull = self.share * scale * sums * np.sqrt(self.between)
        result: Matrix = 0.5 * (pull * pull / known - np.log(known)).sum(1)
        return result


def cluster_voices(vectors: Matrix, spread: VoiceSpread, speakers: int | None = None) -> Labels:
    """Joins the two clusters that are likeliest one voice until none are likely enough.

    Args:
        vectors: (n, size) unit vectors.
        speakers: joins until so many are left instead.

    Returns:
        (n,) numbers from 0; fewer than asked where there are fewer vectors.
    """
    count = len(vectors)
    labels = np.arange(count, dtype=np.int64)
    if count > _FIRST_CLUSTERS:
        labels = cluster(vectors, 0.0, _FIRST_CLUSTERS)
        count = int(labels.max()) + 1
    sums = np.zeros((count, vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    counts = np.bincount(labels).astype(np.float64)
    alone = spread.evidence(sums, counts)

    def gains(one: int) -> Matrix:
        found: Matrix = spread.evidence(sums + sums[one], counts + counts[one]) - alone - alone[one]
        found[~alive] = found[one] = -np.inf
        return found

    alive = np.ones(count, bool)
    gain = np.stack([gains(one) for one in range(count)])
    for _ in range(count - (speakers or 1)):
        one, other = sorted(divmod(int(gain.argmax()), count))
        if speakers is None and gain[one, other] < spread.bias:
            break
        sums[one] += sums[other]
        counts[one] += counts[other]
        alive[other] = False
        labels[labels == other] = one
        gain[other], gain[:, other] = -np.inf, -np.inf
        alone[one] = spread.evidence(sums[one : one + 1], counts[one : one + 1])[0]
        gain[one] = gain[:, one] = gains(one)
    return np.asarray(np.unique(labels, return_inverse=True)[1], dtype=np.int64)
