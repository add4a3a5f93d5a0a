"""The voice encoder of the package: published weights, and a projection learnt on the manifests.

    speechmeta train recipes/speakers/recipe.yaml

Windows of many speakers, each as it is and from the other end of a telephone, go through the
published network; a linear discriminant finds the directions in which voices on one line differ.
Decoded audio is kept in the work folder.
"""

from __future__ import annotations

import io
import logging
import pickle
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict

from speechmeta.diarization.same_voice import VoiceSpread
from speechmeta.diarization.voice_encoder import VoiceEmbedder, VoiceEncoder
from speechmeta.errors import DatasetError, UsageError
from speechmeta.training.manifest import Clip, read_manifest
from speechmeta.training.recipe_files import family, read_recipe_file
from speechmeta.training.speakers import discriminant
from speechmeta.training.voice_windows import speaker_windows
from speechmeta.training.whisper_meta.store import build_store

_LOG = logging.getLogger(__name__)
_IN_WHEEL = "resemblyzer/pretrained.pt"


@dataclass(frozen=True)
class ClipOptions:
    """
    Attributes:
        seconds: about this much of each speaker.
        shortest: seconds of a clip.
        speakers: most of one source.
        left_out: sources that are not used.
        held_out: one of so many speakers is not used, so that calls can be made of them;
            0 for none.
    """

    seconds: float = 8.0
    shortest: float = 3.0
    speakers: int = 300
    left_out: Sequence[str] = ()
    held_out: int = 0


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
        share, most, apart: see `speechmeta.diarization.same_voice.VoiceSpread`.
        window_seconds: lengths of the windows.
        windows: of each length, as many as they are and over a telephone, a speaker.
        dimensions: that the projection keeps.
        shrinkage: see `speechmeta.training.speakers.discriminant`.
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
    share: float
    most: float
    apart: float
    seed: int = 0
    window_seconds: Sequence[float] = (1.5, 0.75)
    windows: int = 4
    dimensions: int = 128
    shrinkage: float = 0.02
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
    clips = [clip for clip in clips if clip in store]
    bare = VoiceEmbedder(encoder, np.zeros(1), np.eye(encoder.linear.out_features), 1.0)
    vectors, windows = [], []
    for seconds in recipe.window_seconds:
        found = list(speaker_windows(clips, seconds, recipe.windows, recipe.seed, store.wave))
        vectors.append(bare.encode([window.wave for window in found]))
        windows += [(window.line, f"{window.line} {window.speaker}") for window in found]
    embedder = fitted(encoder, np.concatenate(vectors), windows, recipe)
    _LOG.info("%d windows of %d clips", len(windows), len(clips))
    recipe.output.parent.mkdir(parents=True, exist_ok=True)
    embedder.save(recipe.output, {"origin": recipe.origin, "licence": recipe.licence})
    return recipe.output


def fitted(
    encoder: VoiceEncoder,
    vectors: np.ndarray,
    windows: Sequence[tuple[str, str]],
    recipe: VoicesRecipe,
) -> VoiceEmbedder:
    """The encoder with a projection of its vectors (windows, size).

    Args:
        windows: the line that each came over, and the voice on it: one that is heard directly and
            over a telephone counts as two, since in a call it has but one line.

    Raises:
        DatasetError: there are too few speakers.
    """
    if len({voice for _, voice in windows}) < 3:
        raise DatasetError("there are fewer than three voices", "give more recordings")
    lines = np.array([line for line, _ in windows])
    centred = vectors.copy()
    for line in set(lines.tolist()):
        centred[lines == line] -= vectors[lines == line].mean(0)
    owners = np.array([voice for _, voice in windows])
    matrix, between = discriminant(centred, owners, recipe.dimensions, recipe.shrinkage)
    spread = VoiceSpread(between, recipe.share, recipe.most, recipe.apart)
    return VoiceEmbedder(encoder, vectors.mean(0), matrix, recipe.distance, spread)


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


def is_held_out(clip: Clip, options: ClipOptions) -> bool:
    """Whether the clip's speaker is kept for choosing how speakers are counted."""
    name = f"{clip.dataset} {clip.speaker}".encode()
    return options.held_out > 0 and zlib.crc32(name) % options.held_out == 0


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
                if not is_held_out(own[index], options):
                    chosen.append(own[index])
                total += own[index].duration
    return chosen
