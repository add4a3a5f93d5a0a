"""Trains the projection under which a checkpoint's encoder tells speakers apart.

    python -m speechmeta.training.speakers CHECKPOINT manifest.jsonl ... [--commercial-only]

Windows of many speakers are embedded by the encoder, half of them over a simulated telephone,
and a linear discriminant analysis finds the directions in which speakers differ. Each source
is centred by itself first: a microphone must not count as a voice.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from speechmeta.audio import SAMPLE_RATE, load_audio, resample
from speechmeta.container import FloatArray
from speechmeta.diarization import WINDOW_SECONDS
from speechmeta.errors import DatasetError, SpeechMetaError
from speechmeta.speakers import EncoderEmbedder, Matrix, SpeakerProjection, unit
from speechmeta.training.manifest import Clip, read_manifest

WINDOWS_PER_SPEAKER = 8
DIMENSIONS = 64
SHRINKAGE = 0.05
"""Share of the mean variance that is added to every direction's."""

HELD_OUT = 5
"""Every fifth speaker sets the distance threshold instead of the projection."""


def speaker_windows(
    clips: Sequence[Clip], seed: int = 0, limit: int = WINDOWS_PER_SPEAKER
) -> Iterator[tuple[str, str, FloatArray]]:
    """Yields (source, speaker, waveform of 1.5 s at 16 kHz), at most `limit` a speaker.

    Every second window passes an 8 kHz, 300 to 3400 Hz telephone band.
    """
    random = np.random.default_rng(seed)
    by_speaker: dict[tuple[str, str], list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.speech and clip.speaker is not None and clip.duration >= WINDOW_SECONDS:
            by_speaker[clip.dataset, clip.speaker].append(clip)
    length = round(WINDOW_SECONDS * SAMPLE_RATE)
    for (source, speaker), own in sorted(by_speaker.items()):
        chosen = [own[index] for index in random.permutation(len(own))[:limit]]
        share = -(-limit // len(chosen))
        count = 0
        for clip in chosen:
            wave = load_audio(clip.audio).resampled(SAMPLE_RATE)[0]
            for _ in range(min(share, len(wave) // length)):
                start = int(random.integers(0, len(wave) - length + 1))
                window = wave[start : start + length]
                # A pause says nothing of the voice.
                if np.square(window).mean() < 0.1 * np.square(wave).mean() or count >= limit:
                    continue
                yield source, speaker, telephone_band(window) if count % 2 else window
                count += 1


def telephone_band(wave: FloatArray) -> FloatArray:
    """300 to 3400 Hz, as heard over a telephone."""
    narrow = resample(wave, SAMPLE_RATE, 8000)
    spectrum = np.fft.rfft(narrow)
    frequencies = np.fft.rfftfreq(len(narrow), 1 / 8000)
    spectrum[(frequencies < 300) | (frequencies > 3400)] = 0
    return resample(np.fft.irfft(spectrum, len(narrow)), 8000, SAMPLE_RATE)[: len(wave)]


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
    train = centred[~test]
    within = np.zeros((vectors.shape[1], vectors.shape[1]))
    means, counts = [], []
    for owner in np.unique(owners[~test]):
        own = train[owners[~test] == owner]
        means.append(own.mean(0))
        counts.append(len(own))
        within += (own - own.mean(0)).T @ (own - own.mean(0))
    within /= len(train)
    within += SHRINKAGE * np.trace(within) / len(within) * np.eye(len(within))
    spread = np.array(means) * np.sqrt(np.array(counts, dtype=np.float64)[:, None])
    between = spread.T @ spread / len(train)
    values, directions = np.linalg.eigh(within)
    whiten = directions / np.sqrt(values)
    strength, turned = np.linalg.eigh(whiten.T @ between @ whiten)
    best = np.argsort(-strength)[: min(dimensions, len(means) - 1, len(strength))]
    matrix = whiten @ turned[:, best]
    mean = vectors[~test].mean(0)
    projected = unit(centred[test] @ matrix)
    same, different = _pair_distances(projected, owners[test], origin[test])
    rate, _ = equal_error(same, different)
    # Clusters are compared by their mean distance, which lies near the mean of its kind.
    distance = float((same.mean() + different.mean()) / 2)
    return SpeakerProjection(mean, matrix, distance, layer), rate


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


def train(
    checkpoint: Path,
    manifests: Sequence[Path],
    layers: Sequence[int] | None = None,
    commercial_only: bool = False,
    seed: int = 0,
) -> tuple[SpeakerProjection, float]:
    """Fits a projection for each layer and saves the best into the checkpoint's folder.

    Raises:
        SpeechMetaError: a checkpoint or manifest cannot be used.
    """
    from speechmeta.models.speechllm import load_model

    model, processor = load_model(checkpoint, local_files_only=True)
    clips = [clip for path in manifests for clip in read_manifest(path)]
    if commercial_only:
        clips = [clip for clip in clips if clip.commercial]
    windows = list(speaker_windows(clips, seed))
    speakers = [f"{source} {speaker}" for source, speaker, _ in windows]
    sources = [source for source, _, _ in windows]
    best: tuple[SpeakerProjection, float] | None = None
    layers = layers or range(1, model.config.audio_config.num_hidden_layers + 1)
    embedder = EncoderEmbedder(model, processor, layer=1)
    everything = embedder.pool_layers([window for _, _, window in windows], layers)
    for layer, pooled in zip(layers, everything, strict=True):
        found = fit_projection(pooled, speakers, sources, layer)
        print(
            f"layer {layer}: equal error rate {found[1]:.4f}, threshold {found[0].distance:.3f}, "
            f"{len(windows)} windows of {len(set(speakers))} speakers",
            flush=True,
        )
        if best is None or found[1] < best[1]:
            best = found
    if best is None:
        raise DatasetError("no layer was asked for", "name layers from 1")
    best[0].save(checkpoint)
    return best


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("--layers", type=int, nargs="+")
    parser.add_argument("--commercial-only", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        train(given.checkpoint, given.manifests, given.layers, given.commercial_only, given.seed)
    except SpeechMetaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
