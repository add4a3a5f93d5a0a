"""Who speaks when on one channel: windows of speech, embedded, clustered and gone over again.

Clusters of windows of 1.5 s give first speakers. Windows of 0.75 s beside them then say who talks
in each 80 ms, where a change of speaker has a price (`diarization.resegmentation`), and the
speakers are computed anew from what is theirs alone. How many there are is told by
`diarization.same_voice`: one more is looked for among the windows that are one speaker's alone,
until none is likely enough. Where it is not known how vectors are spread, their distance tells:
speakers that turn out too alike become one.
Overlapping speech is not separated: each moment belongs to one speaker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechmeta.audio.types import FloatArray
from speechmeta.diarization.clustering import (
    MAX_SPEAKERS,
    absorb_small,
    centroids_of,
    cluster,
    cluster_into,
)
from speechmeta.diarization.embeddings import Matrix, unit
from speechmeta.diarization.resegmentation import (
    Frames,
    best_path,
    change_costs,
    ease_short_runs,
    evidence,
    frames_of,
    segments_of,
    short_runs,
)
from speechmeta.diarization.same_voice import VoiceSpread, divide_voices, one_more_voice
from speechmeta.errors import UsageError
from speechmeta.segmentation.turns import Speech

WINDOW_SECONDS = 1.5
HOP_SECONDS = 0.75
JOIN_SECONDS = 0.3
"""Windows go on over shorter pauses than this."""

SHORT_WINDOW_SECONDS = 0.75
SHORT_HOP_SECONDS = 0.375
SHORT_JOIN_SECONDS = 0.1

SMALLEST_SPEAKER_SECONDS = 2.0
"""Who talks less than this is not a speaker of its own, unless a number was asked for."""

ALONE_SHARE = 0.85
"""Of a window that is one speaker's, from which it is taken for that speaker's alone: two voices
in one window look like a third."""

ALIKE_SHARE = 0.77
"""Speakers whose centroids are closer than this share of the embedder's distance are one: means are
closer than the windows that they are made of."""

PASSES = 2
LONG_WEIGHT = 0.7
"""Of a window of 1.5 s in a moment's evidence; one of 0.75 s has 1."""

CHANGE_INSIDE = 0.12
CHANGE_AT_PAUSE = 0.04
CHANGE_FADES_SECONDS = 0.5
"""What a change of speaker has to gain, in seconds of talk times cosine similarity: within
speech; at a pause, where it falls by e with each half second."""

SHORT_RUN_SECONDS = 1.1
SHORT_RUN_PAUSE = 1.0
SHORT_RUN_EASE = 0.03
"""What a change is worth before and after what is this short and has such pauses around it."""

Labels = npt.NDArray[np.int64]
Windows = npt.NDArray[np.int64]
EmbedWindows = Callable[[Sequence[tuple[int, int]]], Matrix]


@dataclass(frozen=True)
class _Voices:
    """Windows of both lengths with their unit vectors, and the frames that they explain.

    Attributes:
        alone: (frames,) whether a frame is explained by the short windows alone.
    """

    frames: Frames
    alone: npt.NDArray[np.bool_]
    seconds: Matrix
    costs: Matrix
    long: Windows
    long_vectors: Matrix
    short: Windows
    short_vectors: Matrix


def diarize(
    speech: Sequence[Speech],
    embed: EmbedWindows,
    levels: FloatArray,
    *,
    distance: float,
    rate: int,
    hop: int,
    speakers: int | None = None,
    spread: VoiceSpread | None = None,
) -> list[Speech]:
    """Divides speech among speakers, numbered from 0 in the order in which they first talk.

    Args:
        speech: runs in order of time; their speakers do not count.
        embed: gives unit vectors (n, size) of n such stretches.
        levels: mean power of every `hop` samples, to cut where it is quiet.
        distance: cosine distance from which two clusters are two speakers.
        rate: Hz of the samples.
        speakers: how many there are; None to find out.
        spread: of the vectors; tells better than `distance` how many there are.

    Raises:
        UsageError: fewer than one speaker was asked for.
    """
    if speakers is not None and speakers < 1:
        raise UsageError(f"{speakers} speakers were asked for", "give a number from 1")
    if speakers == 1 or not speech:
        return [Speech(run.start, run.end) for run in speech]
    long = windows_of(speech, rate, WINDOW_SECONDS, HOP_SECONDS, JOIN_SECONDS)
    vectors = embed(_pairs(long))
    labels = _first_labels(vectors, distance, speakers, spread)
    if labels is None or labels.max() == 0:
        return [Speech(run.start, run.end) for run in speech]
    short = windows_of(speech, rate, SHORT_WINDOW_SECONDS, SHORT_HOP_SECONDS, SHORT_JOIN_SECONDS)
    frames = frames_of(speech, rate)
    costs = change_costs(
        frames, levels, hop, rate, CHANGE_INSIDE, CHANGE_AT_PAUSE, CHANGE_FADES_SECONDS
    )
    costs = ease_short_runs(frames, costs, rate, SHORT_RUN_SECONDS, SHORT_RUN_PAUSE, SHORT_RUN_EASE)
    seconds = (frames.ends - frames.starts) / rate
    alone = short_runs(frames, rate, SHORT_RUN_SECONDS)
    voices = _Voices(frames, alone, seconds, costs, long, vectors, short, embed(_pairs(short)))
    path = _settled(voices, centroids_of(vectors, labels), distance, speakers, spread)
    if speakers is None and spread is not None:
        path = _with_more(voices, path, distance, spread)
    return _renumber(segments_of(frames, path, levels, hop, rate))


def _first_labels(
    vectors: Matrix, distance: float, speakers: int | None, spread: VoiceSpread | None
) -> Labels | None:
    """Speakers of the long windows; None for one voice."""
    smallest = SMALLEST_SPEAKER_SECONDS / HOP_SECONDS
    if spread is not None:
        if speakers is None:
            return one_more_voice(vectors, spread, 1)
        return divide_voices(vectors, spread, speakers)
    if speakers is None:
        return absorb_small(vectors, cluster(vectors, distance), smallest)
    return cluster_into(vectors, distance, speakers, smallest, ALIKE_SHARE * distance)


def _settled(
    voices: _Voices,
    centroids: Matrix,
    distance: float,
    speakers: int | None,
    spread: VoiceSpread | None,
) -> Labels:
    """Who talks in each frame, after speakers were computed anew from what is theirs."""
    if spread is not None:
        # Their number is settled already.
        speakers = len(centroids)
    path = _path(voices, centroids)
    for _ in range(PASSES):
        centroids = _again(voices, centroids, path, distance, speakers)
        path = _path(voices, centroids)
    return path


def _with_more(voices: _Voices, path: Labels, distance: float, spread: VoiceSpread) -> Labels:
    """Who talks in each frame, after speakers were added one by one while likely enough."""
    count = int(path.max()) + 1
    while count < MAX_SPEAKERS:
        shares = [_share(voices.frames, path == one, voices.long) for one in range(count)]
        vectors = voices.long_vectors[np.max(shares, axis=0) > ALONE_SHARE]
        labels = one_more_voice(vectors, spread, count)
        if labels is None:
            return path
        count += 1
        path = _settled(voices, centroids_of(vectors, labels), distance, None, spread)
    return path


def windows_of(
    speech: Sequence[Speech], rate: int, seconds: float, hop: float, join: float
) -> Windows:
    """Windows (n, 2) about every `hop` seconds of each run; one shorter window of a shorter run.

    Args:
        join: runs with shorter pauses than this count as one.
    """
    length, step = round(seconds * rate), round(hop * rate)
    found: list[tuple[int, int]] = []
    for start, end in _joined(speech, round(join * rate)):
        if end - start <= length:
            found.append((start, end))
            continue
        count = -(-(end - start - length) // step) + 1
        firsts = np.linspace(start, end - length, count).round().astype(int)
        found += [(int(first), int(first) + length) for first in firsts]
    return np.array(found, np.int64).reshape(-1, 2)


def _joined(speech: Sequence[Speech], pause: int) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for run in speech:
        if joined and run.start - joined[-1][1] < pause:
            joined[-1] = (joined[-1][0], run.end)
        else:
            joined.append((run.start, run.end))
    return joined


def _pairs(windows: Windows) -> list[tuple[int, int]]:
    return [(int(start), int(end)) for start, end in windows]


def _path(voices: _Voices, centroids: Matrix) -> Labels:
    """Who talks in each frame.

    A long window around a short run is more of its neighbours than of itself, so that it is left
    out there.
    """
    likeness = voices.short_vectors @ centroids.T
    long = (voices.long, voices.long_vectors @ centroids.T, LONG_WEIGHT)
    worth = evidence(voices.frames, [long, (voices.short, likeness, 1.0)])
    there = _share(voices.frames, voices.alone, voices.short) > 0
    only = evidence(voices.frames, [(voices.short[there], likeness[there], 1.0)])
    worth[voices.alone] = only[voices.alone]
    return best_path(worth * voices.seconds[:, None], voices.costs)


def _again(
    voices: _Voices, centroids: Matrix, path: Labels, distance: float, speakers: int | None
) -> Matrix:
    """The speakers' centroids from the windows that are theirs alone.

    Unless a number was asked for, who talks too little is left out, and two who are too alike
    become one.
    """
    vectors = np.concatenate([voices.long_vectors, voices.short_vectors])
    found: list[Matrix] = []
    talk: list[float] = []
    for speaker in range(len(centroids)):
        mine = path == speaker
        total = float(voices.seconds[mine].sum())
        if speakers is None and total < SMALLEST_SPEAKER_SECONDS:
            continue
        if total == 0:
            # Asked for, and yet without a moment: it keeps its place.
            found.append(centroids[speaker])
            talk.append(total)
            continue
        long = _share(voices.frames, mine, voices.long)
        short = _share(voices.frames, mine, voices.short)
        weights = np.concatenate([1.5 * (long > 0.85), 0.4 * (short > 0.95)])
        if not weights.any():
            weights = np.concatenate([long**4, 0.3 * short**4])
        found.append(unit((vectors * weights[:, None]).sum(0)[None])[0])
        talk.append(total)
    if not found:
        return centroids[:1]
    if speakers is None:
        _merge(found, talk, ALIKE_SHARE * distance)
        keep = sorted(np.argsort(talk)[::-1][:MAX_SPEAKERS].tolist())
        found = [found[index] for index in keep]
    return np.stack(found)


def _merge(centroids: list[Matrix], talk: list[float], distance: float) -> None:
    """Joins the closest two until all are further apart than `distance`."""
    while len(centroids) > 1:
        stacked = np.stack(centroids)
        apart = 1 - stacked @ stacked.T
        np.fill_diagonal(apart, np.inf)
        one, other = sorted(divmod(int(apart.argmin()), len(centroids)))
        if apart[one, other] > distance:
            return
        both = talk[one] * centroids[one] + talk[other] * centroids[other]
        centroids[one] = unit(both[None])[0]
        talk[one] += talk[other]
        del centroids[other], talk[other]


def _share(frames: Frames, mine: npt.NDArray[np.bool_], windows: Windows) -> Matrix:
    """The share of each window's frames that are in `mine`."""
    sums = np.concatenate([[0], np.cumsum(mine)])
    first = np.searchsorted(frames.middles, windows[:, 0])
    last = np.searchsorted(frames.middles, windows[:, 1])
    result: Matrix = (sums[last] - sums[first]) / np.maximum(1, last - first)
    return result


def _renumber(regions: list[Speech]) -> list[Speech]:
    order = {
        speaker: number
        for number, speaker in enumerate(dict.fromkeys(region.speaker for region in regions))
    }
    return [Speech(region.start, region.end, order[region.speaker]) for region in regions]
