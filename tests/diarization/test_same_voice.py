"""How many voices there are, by what one voice explains."""

from __future__ import annotations

import numpy as np

from speechmeta.diarization.embeddings import Matrix, unit
from speechmeta.diarization.same_voice import VoiceSpread, cluster_voices

BETWEEN = np.linspace(12.0, 0.5, 40)
SPREAD = VoiceSpread(BETWEEN, share=0.5, bias=-2.0)


def drawn(sizes: tuple[int, ...], seed: int = 0) -> tuple[Matrix, np.ndarray]:
    """Vectors as the model says that they lie, and whose each is."""
    random = np.random.default_rng(seed)
    places = random.standard_normal((len(sizes), len(BETWEEN))) * np.sqrt(BETWEEN)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    return unit(places[owners] + random.standard_normal((len(owners), len(BETWEEN)))), owners


def pairs_of(labels: np.ndarray, owners: np.ndarray) -> int:
    return len(set(zip(labels.tolist(), owners.tolist(), strict=True)))


def test_voices_are_counted() -> None:
    for sizes in ((30,), (20, 12), (9, 25, 14), (8, 8, 8, 8)):
        vectors, owners = drawn(sizes)
        labels = cluster_voices(vectors, SPREAD)
        assert labels.max() + 1 == len(sizes) == pairs_of(labels, owners)


def test_a_known_number_is_kept() -> None:
    vectors, owners = drawn((20, 12, 10))
    assert pairs_of(cluster_voices(vectors, SPREAD, 3), owners) == 3
    assert cluster_voices(vectors, SPREAD, 2).max() == 1
    assert sorted(cluster_voices(vectors[:3], SPREAD, 9)) == [0, 1, 2]


def test_long_calls_are_clustered_by_distance_first() -> None:
    vectors, owners = drawn((300, 150, 100))
    assert pairs_of(cluster_voices(vectors, SPREAD), owners) == 3


def test_more_speech_is_more_evidence() -> None:
    apart = np.zeros((2, len(BETWEEN)))
    apart[:, 20] = 1.0
    apart[0, 0], apart[1, 0] = 0.5, -0.5
    apart = unit(apart)
    gains = []
    for count in (1.0, 4.0, 16.0):
        sums, counts = apart * count, np.full(2, count)
        both = SPREAD.evidence(sums.sum(0)[None], counts.sum(keepdims=True))[0]
        gains.append(both - SPREAD.evidence(sums, counts).sum())
    assert gains[0] > gains[1] > gains[2]
