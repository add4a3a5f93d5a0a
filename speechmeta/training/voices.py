"""The voice encoder of the package: published weights, and a projection learnt on the manifests.

    speechmeta train recipes/speakers/recipe.yaml

Windows of many speakers, each as it is and from the other end of a telephone, go through the
published network; a linear discriminant finds the directions in which voices differ whatever the
line. Decoded audio is kept in the work folder.
"""

from __future__ import annotations

import io
import logging
import pickle
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.audio.telephone import Codec, over_the_line
from speechmeta.diarization.voice_encoder import VoiceEmbedder, VoiceEncoder
from speechmeta.errors import UsageError
from speechmeta.training.manifest import Clip, read_manifest
from speechmeta.training.recipe_files import family, read_recipe_file
from speechmeta.training.speakers import fit_projection
from speechmeta.training.whisper_meta.store import AudioStore, build_store

_LOG = logging.getLogger(__name__)
_IN_WHEEL = "resemblyzer/pretrained.pt"
LEVEL = 0.06
"""RMS to which every window is brought before noise is added."""
LINES: tuple[Codec, ...] = ("mulaw", "gsm", "none", "alaw", "mulaw")
"""Codecs of the telephone, drawn alike."""

Place = tuple[int, int]


@dataclass(frozen=True)
class ClipOptions:
    """
    Attributes:
        seconds: about this much of each speaker.
        shortest: seconds of a clip.
        speakers: most of one source.
        left_out: sources that are not used.
    """

    seconds: float = 8.0
    shortest: float = 3.0
    speakers: int = 300
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class VoicesRecipe:
    """
    Attributes:
        family: tells this recipe from others of `speechmeta train`.
        start: published weights: the wheel of `resemblyzer` or its `pretrained.pt`.
        train: manifest; only rows that are free for commercial use are read.
        work: folder for decoded audio. output: the file that is written.
        distance: cosine distance from which two clusters are two speakers.
        origin, licence: noted in the file.
        window_seconds: length of the windows, one as it is and one over a telephone a speaker.
        dimensions: that the projection keeps.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    family: Literal["speakers"]
    start: Path
    train: Path
    work: Path
    output: Path
    distance: float
    origin: str
    licence: str
    seed: int = 0
    window_seconds: float = 1.5
    dimensions: int = 128
    clips: ClipOptions = field(default_factory=ClipOptions)


def is_voices_recipe(path: Path) -> bool:
    """Whether a config file of `speechmeta train` is for this recipe."""
    return family(path) == "speakers"


def read_voices_recipe(path: Path) -> VoicesRecipe:
    """See `speechmeta.training.recipe_files.read_recipe_file`."""
    return read_recipe_file(path, VoicesRecipe, "recipes/speakers/recipe.yaml")


def run_voices(recipe: VoicesRecipe) -> Path:
    """Makes the file; returns its path.

    Raises:
        UsageError: the published weights are not there or are something else.
        SpeechMetaError: a manifest cannot be used, or there are too few speakers.
    """
    encoder = published_encoder(recipe.start)
    clips = choose(read_manifest(recipe.train), recipe.clips, recipe.seed)
    store = build_store(clips, recipe.work / "audio")
    windows = list(speaker_windows(clips, store, recipe.window_seconds, recipe.seed))
    bare = VoiceEmbedder(encoder, np.zeros(1), np.eye(encoder.linear.out_features), 1.0)
    vectors = bare.encode([wave for _, _, wave in windows])
    embedder, rate = fitted(
        encoder, vectors, [name for _, name, _ in windows], [s for s, _, _ in windows], recipe
    )
    _LOG.info(
        "%d windows of %d clips: equal error rate %.4f between windows of held-out speakers",
        len(windows), len(clips), rate,
    )  # fmt: skip
    recipe.output.parent.mkdir(parents=True, exist_ok=True)
    embedder.save(recipe.output, {"origin": recipe.origin, "licence": recipe.licence})
    return recipe.output


def fitted(
    encoder: VoiceEncoder,
    vectors: np.ndarray,
    speakers: Sequence[str],
    sources: Sequence[str],
    recipe: VoicesRecipe,
) -> tuple[VoiceEmbedder, float]:
    """The encoder with a projection of its vectors (windows, size), and the equal error rate
    between windows of the speakers that were held out of it."""
    found, rate = fit_projection(vectors, speakers, sources, 0, recipe.dimensions)
    return VoiceEmbedder(encoder, found.mean, found.matrix, recipe.distance), rate


def published_encoder(path: Path) -> VoiceEncoder:
    """Resemblyzer's weights, from its wheel or from the file in it.

    Raises:
        UsageError: they are not there, or they are something else.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".whl":
            with zipfile.ZipFile(io.BytesIO(data)) as wheel:
                data = wheel.read(_IN_WHEEL)
        state: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        encoder = VoiceEncoder()
        encoder.load_state_dict(
            {k: v for k, v in state["model_state"].items() if not k.startswith("similarity")}
        )
    except (
        OSError, KeyError, TypeError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile,
        pickle.UnpicklingError,
    ) as error:  # fmt: skip
        raise UsageError(
            f"{path} does not hold the weights: {error}",
            "pip download --no-deps resemblyzer==0.1.4, and give the wheel",
        ) from error
    return encoder.eval()


def choose(clips: Iterable[Clip], options: ClipOptions, seed: int) -> list[Clip]:
    """Clips of known speakers that are free for commercial use, in random order."""
    random = np.random.default_rng(seed)
    by_source: dict[str, dict[str, list[Clip]]] = defaultdict(lambda: defaultdict(list))
    for clip in clips:
        if not clip.commercial or clip.dataset in options.left_out:
            continue
        if clip.speech and clip.speaker and clip.duration >= options.shortest:
            by_source[clip.dataset][clip.speaker].append(clip)
    chosen = []
    for _, speakers in sorted(by_source.items()):
        names = sorted(speakers)
        for name in random.permutation(len(names))[: options.speakers]:
            own = speakers[names[int(name)]]
            total = 0.0
            for index in random.permutation(len(own)):
                if total >= options.seconds:
                    break
                chosen.append(own[index])
                total += own[index].duration
    return chosen


def speaker_windows(
    clips: Sequence[Clip], store: AudioStore, seconds: float, seed: int
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields (source, speaker, waveform at 16 kHz), two of each speaker: as it is and over a
    telephone. Half of the windows have white noise 12 to 35 dB below."""
    random = np.random.default_rng(seed)
    by_source: dict[str, dict[str, list[Place]]] = defaultdict(lambda: defaultdict(list))
    for clip in clips:
        if clip in store:
            place = store.places[str(clip.audio)]
            by_source[clip.dataset][str(clip.speaker)].append(place)
    samples = round(seconds * SAMPLE_RATE)
    for source, speakers in sorted(by_source.items()):
        for speaker, places in sorted(speakers.items()):
            for telephone in (False, True):
                wave = _window(places, samples, store, random)
                if telephone:
                    codec = LINES[int(random.integers(len(LINES)))]
                    banded = random.random() < 0.7
                    low, high = (random.uniform(150, 320), random.uniform(3300, 3800)) if banded \
                        else (0.0, 0.0)  # fmt: skip
                    wave = over_the_line(wave, SAMPLE_RATE, codec, (low, high) if banded else None)
                if random.random() < 0.5:
                    noise = random.standard_normal(samples).astype(np.float32)
                    wave = wave + noise * LEVEL * 10 ** (-random.uniform(12, 35) / 20)
                yield source, f"{source} {speaker}", wave.astype(np.float32)


def _window(
    places: Sequence[Place], samples: int, store: AudioStore, random: np.random.Generator
) -> np.ndarray:
    """A stretch with speech of one of the clips; where none is long enough it is repeated."""
    best: np.ndarray = np.zeros(samples, np.float32)
    most = -1.0
    fitting = [place for place in places if place[1] >= samples] or list(places)
    for _ in range(3):
        start, count = fitting[int(random.integers(len(fitting)))]
        if count >= samples:
            start, count = start + int(random.integers(0, count - samples + 1)), samples
        wave = np.resize(store.samples[start : start + count], samples).astype(np.float32) / 32767
        power = np.square(wave[: samples // 160 * 160]).reshape(-1, 160).mean(1)
        # Where much of it is far below the mean it is a pause, which says nothing of the voice.
        active = float((power > 0.1 * power.mean()).mean()) if power.any() else 0.0
        if active > most:
            best, most = wave, active
        if active > 0.5:
            break
    level = float(np.sqrt(np.square(best).mean())) + 1e-6
    return np.asarray(best * (LEVEL / level), dtype=np.float32)
