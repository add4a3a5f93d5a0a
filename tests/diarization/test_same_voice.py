"""How many voices there are, by what one voice explains."""

from __future__ import annotations

import numpy as np

from speechmeta.diarization.embeddings import Matrix, unit
from speechmeta.diarization.same_voice import VoiceSpread, divide_voices, one_more_voice

BETWEEN = np.linspace(12.0, 0.5, 40)
SPREAD = VoiceSpread(BETWEEN, share=0.5, most=15.0, apart=4.0)


def drawn(sizes: tuple[int, ...], seed: int = 0) -> tuple[Matrix, np.ndarray]:
    """Vectors as the model says that they lie, and whose each is."""
    random = np.random.default_rng(seed)
    places = random.standard_normal((len(sizes), len(BETWEEN))) * np.sqrt(BETWEEN)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    return unit(places[owners] + random.standard_normal((len(owners), len(BETWEEN)))), owners


def pairs_of(labels: np.ndarray, owners: np.ndarray) -> int:
    return len(set(zip(labels.tolist(), owners.tolist(), strict=True)))


def counted(vectors: Matrix) -> np.ndarray:
    """Labels after one voice more was looked for as often as there was one."""
    labels = np.zeros(len(vectors), np.int64)
    while (more := one_more_voice(vectors, SPREAD, int(labels.max()) + 1)) is not None:
        labels = more
    return labels


def test_voices_are_counted() -> None:
    for sizes in ((30,), (20, 12), (9, 25, 14), (8, 8, 8, 8), (300, 250, 100)):
        vectors, owners = drawn(sizes)
        labels = counted(vectors)
        assert labels.max() + 1 == len(sizes) == pairs_of(labels, owners)


def test_a_known_number_is_kept() -> None:
    vectors, owners = drawn((20, 12, 10))
    assert pairs_of(divide_voices(vectors, SPREAD, 3), owners) == 3
    assert divide_voices(vectors, SPREAD, 2).max() == 1
    assert sorted(divide_voices(vectors[:3], SPREAD, 9)) == [0, 1, 2]
    assert list(divide_voices(vectors[:1], SPREAD, 1)) == [0]


def test_a_large_voice_does_not_swallow_a_small_one() -> None:
    vectors, owners = drawn((60, 5))
    labels = one_more_voice(vectors, SPREAD, 1)
    assert labels is not None
    assert pairs_of(labels, owners) == 2


def test_odd_windows_hide_no_speaker_and_are_none() -> None:
    vectors, owners = drawn((9, 7), seed=6)
    # A sound that is as unlike both voices as can be.
    odd = np.repeat(unit(-vectors.sum(0)[None]), 2, axis=0)
    labels = one_more_voice(np.concatenate([vectors, odd]), SPREAD, 1)
    assert labels is not None
    assert list(np.flatnonzero(labels < 0)) == [16, 17]
    assert pairs_of(labels[:16], owners) == 2
    assert one_more_voice(np.concatenate([vectors, odd]), SPREAD, 2) is None


def test_a_voice_that_drifts_in_a_long_call_stays_one() -> None:
    random = np.random.default_rng(4)
    voice, other = random.standard_normal((2, len(BETWEEN))) * np.sqrt(BETWEEN)
    # Three sessions of one voice, further apart than chance and closer than voices.
    sessions = voice + 0.5 * random.standard_normal((3, len(BETWEEN)))
    owners = np.repeat(np.arange(4), 80)
    places = np.concatenate([sessions, other[None]])
    vectors = unit(places[owners] + random.standard_normal((len(owners), len(BETWEEN))))
    labels = one_more_voice(vectors, SPREAD, 1)
    assert labels is not None
    assert pairs_of(labels, owners // 3) == 2
    assert one_more_voice(vectors, SPREAD, 2) is None
    boundless = VoiceSpread(BETWEEN, SPREAD.share, np.inf, SPREAD.apart)
    assert one_more_voice(vectors, boundless, 2) is not None


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
