"""Trains the projection under which an encoder's hidden states tell speakers apart.

    python -m speechmeta.training.speakers MANIFEST.jsonl ... --checkpoint CHECKPOINT

It is saved beside the checkpoint, for `--speaker-model encoder`; the package's own voice encoder
is made by `speechmeta.training.voices`. Windows of many speakers, half of them over a simulated
telephone, are described, and a linear discriminant analysis finds the directions in which
speakers differ. Each source is centred by itself first: a microphone must not count as a voice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speechmeta.diarization.diarizer import WINDOW_SECONDS
from speechmeta.diarization.embeddings import (
    EncoderEmbedder,
    Matrix,
    SpeakerProjection,
    unit,
)
from speechmeta.errors import DatasetError, SpeechMetaError
from speechmeta.training.manifest import Clip, read_clips
from speechmeta.training.voice_windows import speaker_windows

WINDOWS_PER_SPEAKER = 10
DIMENSIONS = 64
SHRINKAGE = 0.05
"""Share of the mean variance that is added to every direction's."""

_LEAST_BETWEEN = 1e-3
HELD_OUT = 5
"""Every fifth speaker sets the distance threshold instead of the projection."""


def fit_projection(
    vectors: Matrix,
    speakers: Sequence[str],
    sources: Sequence[str],
    layer: int,
    dimensions: int = DIMENSIONS,
) -> tuple[SpeakerProjection, float]:
    """Fits the projection and its threshold.

    Args:
        vectors: (windows, size) pooled hidden states. speakers, sources: of each.

    Returns:
        the projection, and the equal error rate of pairs of windows of held-out speakers.

    Raises:
        DatasetError: there are too few speakers.
    """
    names = sorted(set(speakers))
    held = {name for index, name in enumerate(names) if index % HELD_OUT == HELD_OUT - 1}
    test = np.array([speaker in held for speaker in speakers])
    owners = np.array([names.index(speaker) for speaker in speakers])
    if len(names) - len(held) < 3 or len(held) < 2:
        raise DatasetError(f"there are only {len(names)} speakers", "give more manifests")
    centred = vectors.copy()
    origin = np.array(sources)
    for source in set(sources):
        mine = origin == source
        centred[mine] -= vectors[mine & ~test].mean(0) if (mine & ~test).any() else 0.0
    matrix, _ = discriminant(centred[~test], owners[~test], dimensions, SHRINKAGE)
    mean = vectors[~test].mean(0)
    projected = unit(centred[test] @ matrix)
    same, different = _pair_distances(projected, owners[test], origin[test])
    rate, _ = equal_error(same, different)
    # Clusters are compared by their mean distance, which lies near the mean of its kind.
    distance = float((same.mean() + different.mean()) / 2)
    return SpeakerProjection(mean, matrix, distance, layer), rate


def discriminant(
    centred: Matrix, owners: np.ndarray, dimensions: int, shrinkage: float
) -> tuple[Matrix, Matrix]:
    """Directions in which voices differ more than the windows of one do.

    Args:
        centred: (windows, size), the mean of each line taken off. owners: (windows,) whose each is.
        shrinkage: share of the mean variance within voices that is added to every direction's.

    Returns:
        (size, fewer): the map under which windows of one voice have unit variance; (fewer,): the
        variance between voices in each of its directions, the largest first.
    """
    _, owners = np.unique(owners, return_inverse=True)
    counts = np.bincount(owners)
    means = np.zeros((len(counts), centred.shape[1]))
    np.add.at(means, owners, centred)
    means /= counts[:, None]
    apart = centred - means[owners]
    within = apart.T @ apart / max(1, len(centred) - len(counts))
    within += shrinkage * np.trace(within) / len(within) * np.eye(len(within))
    # The mean of a few windows is off by what is left of their own variance.
    between = means.T @ means / len(means) - within * np.mean(1 / counts)
    values, directions = np.linalg.eigh(within)
    whiten = directions / np.sqrt(values)
    strength, turned = np.linalg.eigh(whiten.T @ between @ whiten)
    best = np.argsort(-strength)[: min(dimensions, len(means) - 1, len(strength))]
    return whiten @ turned[:, best], np.maximum(strength[best], _LEAST_BETWEEN)


def equal_error(same: Matrix, different: Matrix) -> tuple[float, float]:
    """The rate at which as many pairs of one speaker are refused as of two accepted, and the
    distance at which that happens."""
    edges = np.sort(np.concatenate([same, different]))
    refused = 1 - np.searchsorted(np.sort(same), edges, side="right") / len(same)
    accepted = np.searchsorted(np.sort(different), edges, side="right") / len(different)
    index = int(np.argmin(np.abs(refused - accepted)))
    return float((refused[index] + accepted[index]) / 2), float(edges[index])


def _pair_distances(
    vectors: Matrix, owners: np.ndarray, sources: np.ndarray
) -> tuple[Matrix, Matrix]:
    """Cosine distances of pairs of one speaker, and of two of the same source."""
    distances = 1 - vectors @ vectors.T
    first, second = np.triu_indices(len(vectors), 1)
    one_source = sources[first] == sources[second]
    alike = owners[first] == owners[second]
    pairs = distances[first, second]
    different = pairs[~alike & one_source]
    return pairs[alike], different if different.size else pairs[~alike]


def train_encoder(
    checkpoint: Path, clips: Sequence[Clip], layers: Sequence[int] | None = None, seed: int = 0
) -> tuple[SpeakerProjection, float]:
    """Fits a projection for each layer of a checkpoint's encoder; returns the best.

    Raises:
        SpeechMetaError: the checkpoint or a file cannot be used, or there are too few speakers.
    """
    from speechmeta.models.speechllm import load_model

    model, processor = load_model(checkpoint, local_files_only=True)
    windows = list(speaker_windows(clips, WINDOW_SECONDS, WINDOWS_PER_SPEAKER // 2, seed))
    if not windows:
        raise DatasetError("no clip has a known speaker", "give manifests with speakers")
    speakers = [f"{window.source} {window.speaker}" for window in windows]
    sources = [window.source for window in windows]
    embedder = EncoderEmbedder(model, processor, layer=1)
    layers = layers or range(1, embedder.layers + 1)
    everything = embedder.pool_layers([window.wave for window in windows], layers)
    found = [
        fit_projection(pooled, speakers, sources, layer)
        for layer, pooled in zip(layers, everything, strict=True)
    ]
    return min(found, key=lambda item: item[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(description="Trains projections that tell speakers apart.")
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("--checkpoint", type=Path, required=True, help="whose encoder it is for")
    parser.add_argument("--layers", type=int, nargs="+", help="of the encoder; default: all")
    parser.add_argument("--commercial-only", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        clips = read_clips(given.manifests, given.commercial_only)
        found, rate = train_encoder(given.checkpoint, clips, given.layers, given.seed)
    except SpeechMetaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    found.save(given.checkpoint)
    print(
        f"equal error rate {rate:.4f} for windows of {WINDOW_SECONDS} s of held-out speakers, "
        f"threshold {found.distance:.3f}, layer {found.layer}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
