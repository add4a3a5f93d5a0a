"""How many speakers there are: as many as are two by two likelier two voices than one.

The two-covariance model of speaker verification (probabilistic linear discriminant analysis; Ioffe
2006, Brümmer and de Villiers 2010): a voice is a point drawn around the origin, further out in
directions in which voices differ, and each window of it another draw around that point, with unit
variance. So how long two clusters are counts as well as how far apart, but only up to a length: a
voice drifts in a call (mood, distance to the microphone, line), which no number of windows evens
out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speechmeta.diarization.clustering import Labels, cluster
from speechmeta.diarization.embeddings import Matrix

_MOST_ROWS = 600
"""A call with more windows is clustered by distance into as many before."""

_REFINEMENTS = 8
_ODD_CLUSTERS = 2
"""How often what is too small for a speaker is taken out, to see whether it hides one."""

LEAST_WINDOWS = 3
SECOND_SHARE = 0.02
FURTHER_SHARE = 0.04
"""Who has fewer windows, or a smaller share of them, is no second, or third, speaker: what is odd
is more often a laugh or noise. Most calls have two speakers."""

SECOND_LENGTH = 4.0
"""For a second speaker a cluster may count for so many times more windows than for a further one:
two parties taken for one are worse than one that talks to nobody taken for two."""


@dataclass(frozen=True)
class VoiceSpread:
    """How voices lie among unit vectors.

    Attributes:
        between: (size,) variance of voices in each direction, where windows of one have 1.
        share: of a window that counts as news. Neighbours overlap, and a voice goes on as it was.
        most: windows for which a cluster counts at most where there would be three or more.
        apart: nats by which two voices have to be likelier than one.
    """

    between: Matrix
    share: float
    most: float
    apart: float

    def evidence(self, sums: Matrix, counts: Matrix) -> Matrix:
        """Log evidence (clusters,) of one voice against none, of sums (clusters, size) of unit
        vectors and their numbers (clusters,)."""
        scale = np.sqrt((1 + self.between).sum())
        known = 1 + self.share * counts[:, None] * self.between
        pull = self.share * scale * sums * np.sqrt(self.between)
        result: Matrix = 0.5 * (pull * pull / known - np.log(known)).sum(1)
        return result

    def two_voices(self, sums: Matrix, counts: Matrix, most: float) -> float:
        """How much likelier two voices are than one, in nats, for the two clusters of which that
        is least.

        Args:
            sums: (clusters, size) of unit vectors. counts: (clusters,), how many.
            most: windows for which a cluster counts at most.
        """
        heard = np.minimum(counts, most)
        sums = sums * (heard / counts)[:, None]
        alone = self.evidence(sums, heard)
        one, other = np.triu_indices(len(counts), 1)
        joined = self.evidence(sums[one] + sums[other], heard[one] + heard[other])
        return float((alone[one] + alone[other] - joined).min())


def one_more_voice(vectors: Matrix, spread: VoiceSpread, speakers: int) -> Labels | None:
    """Divides windows among one speaker more than are known; None where two of them would be too
    likely one voice, or one too small.

    Args:
        vectors: (n, size) unit vectors, each of one speaker as far as is known.
        speakers: that are known.

    Returns:
        (n,) numbers from 0; -1 for odd windows, which are like nobody's.
    """
    share = SECOND_SHARE if speakers == 1 else FURTHER_SHARE
    least = max(LEAST_WINDOWS, share * len(vectors))
    most = spread.most * (SECOND_LENGTH if speakers == 1 else 1.0)
    kept = np.arange(len(vectors))
    for _ in range(_ODD_CLUSTERS + 1):
        labels = _partition(vectors[kept], spread, speakers + 1)
        if labels is None:
            return None
        sums, counts = _totals(vectors[kept], np.ones(len(kept)), labels)
        if counts.min() >= least:
            if spread.two_voices(sums, counts, most) <= spread.apart:
                return None
            found = np.full(len(vectors), -1, np.int64)
            found[kept] = labels
            return found
        kept = kept[counts[labels] >= least]
    return None


def divide_voices(vectors: Matrix, spread: VoiceSpread, speakers: int) -> Labels:
    """Divides windows among so many speakers, as the model explains them best.

    Args:
        vectors: (n, size) unit vectors.

    Returns:
        (n,) numbers from 0; fewer speakers than asked where there are fewer vectors.
    """
    labels = _partition(vectors, spread, speakers)
    return np.arange(len(vectors), dtype=np.int64) if labels is None else labels


def _partition(vectors: Matrix, spread: VoiceSpread, size: int) -> Labels | None:
    """The best of two ways to make so many clusters, each gone over again; None where there are
    too few vectors."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(vectors) < max(2, size):
        return None
    groups = np.arange(len(vectors), dtype=np.int64)
    if len(vectors) > _MOST_ROWS:
        groups = cluster(vectors, 0.0, _MOST_ROWS)
    sums, counts = _totals(vectors, np.ones(len(vectors)), groups)
    means = sums / counts[:, None]
    # By angle, and by distance where voices differ. Joining by evidence instead prefers large
    # clusters, which swallow the others one window at a time.
    weighed = means * np.sqrt(spread.between / (1 + spread.between))
    found = []
    for tree in (linkage(means, "average", metric="cosine"), linkage(weighed, "ward")):
        first = np.unique(fcluster(tree, size, "maxclust"), return_inverse=True)[1]
        if first.max() + 1 == size:
            found.append(_refined(sums, counts, first.astype(np.int64), spread))
    return max(found, key=lambda item: item[1])[0][groups] if found else None


def _refined(
    sums: Matrix, counts: Matrix, labels: Labels, spread: VoiceSpread
) -> tuple[Labels, float]:
    """Labels (rows,) after rows have gone to the voice that explains them best, as long as that
    explains all of them better, and how well."""
    size = int(labels.max()) + 1
    totals, weights = _totals(sums, counts, labels)
    worth = float(spread.evidence(totals, weights).sum())
    for _ in range(_REFINEMENTS):
        gains = np.empty((len(sums), size))
        for voice in range(size):
            mine = labels == voice
            without = totals[voice] - np.where(mine[:, None], sums, 0.0)
            fewer = weights[voice] - np.where(mine, counts, 0.0)
            gains[:, voice] = spread.evidence(without + sums, fewer + counts)
            gains[:, voice] -= spread.evidence(without, fewer)
        moved = gains.argmax(1)
        if len(np.unique(moved)) < size:
            break
        totals, weights = _totals(sums, counts, moved)
        after = float(spread.evidence(totals, weights).sum())
        if after <= worth:
            break
        labels, worth = moved, after
    return labels, worth


def _totals(rows: Matrix, counts: Matrix, labels: Labels) -> tuple[Matrix, Matrix]:
    """Sums (clusters, size) of rows, and the windows (clusters,) in them."""
    size = int(labels.max()) + 1
    sums = np.zeros((size, rows.shape[1]))
    np.add.at(sums, labels, rows)
    return sums, np.bincount(labels, weights=counts, minlength=size).astype(np.float64)
