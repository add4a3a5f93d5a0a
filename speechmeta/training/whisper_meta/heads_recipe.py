"""Both sets of label heads of a checkpoint, from its encoder and the manifests.

    speechmeta train recipes/whisper_meta/heads.yaml

Reads the encoder of the checkpoint folder, writes `heads.safetensors` (rows free for commercial
use) and `heads-research.safetensors` (all rows) into it and the `heads` section into its
config.json. Pooled hidden states are kept in the work folder; a run that was stopped goes on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.models.weights import ordinary_modes
from speechmeta.training.manifest import Clip, read_manifest
from speechmeta.training.recipe_files import family, read_recipe_file
from speechmeta.training.splits import read_halves
from speechmeta.training.whisper_meta.heads_calibrate import (
    SHORT_SECONDS,
    CalibrationOptions,
    Cases,
    calibrate,
)
from speechmeta.training.whisper_meta.heads_crops import CropOptions, crop_wave, plan_crops
from speechmeta.training.whisper_meta.heads_features import (
    StatisticsStore,
    load_encoder,
    write_statistics,
)
from speechmeta.training.whisper_meta.heads_targets import (
    SPEECH,
    TAUGHT,
    TargetOptions,
    clip_target,
    is_ordinary,
)
from speechmeta.training.whisper_meta.heads_train import fit_heads
from speechmeta.training.whisper_meta.store import AudioStore, build_store

_LOG = logging.getLogger(__name__)
OPEN, RESEARCH = "open", "research"
FILES = {OPEN: "heads.safetensors", RESEARCH: "heads-research.safetensors"}
LICENCES = {OPEN: "Apache-2.0", RESEARCH: "CC-BY-NC-SA-4.0"}
"""SPDX; NOTICE lists the recordings. Two of the research heads' sources ask for the latter."""

LONGEST_SECONDS = 29.0
"""Whisper has positions for 30 s; a second of silence is behind every clip."""


@dataclass(frozen=True)
class HeadsRecipe:
    """
    Attributes:
        family: tells this recipe from others of `speechmeta train`.
        checkpoint: the folder whose encoder is listened to and that the heads are written to.
        train, dev: manifests; only the `tune` half of `dev` is looked at.
        work: folder for decoded audio and pooled hidden states.
        stores: folders of decoded audio that are there already.
        seed: of the crops.
        research_targets: what the research heads learn, where it differs from `targets`.
        strengths: by field, scikit-learn's `C`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    family: Literal["whisper_meta_heads"]
    checkpoint: Path
    train: Path
    dev: Path
    work: Path
    stores: Sequence[Path] = ()
    seed: int = 0
    crops: CropOptions = field(default_factory=CropOptions)
    targets: TargetOptions = field(default_factory=TargetOptions)
    research_targets: TargetOptions | None = None
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    strengths: Mapping[str, float] = field(default_factory=dict)


def read_heads_recipe(path: Path) -> HeadsRecipe:
    """See `speechmeta.training.recipe_files.read_recipe_file`."""
    return read_recipe_file(path, HeadsRecipe, "recipes/whisper_meta/heads.yaml")


class Audio:
    """Decoded clips of several stores; those that none holds are decoded into one of its own."""

    def __init__(self, clips: Sequence[Clip], folders: Sequence[Path], own: Path) -> None:
        stores = [AudioStore(folder) for folder in folders]
        missing = [clip for clip in clips if not any(clip in store for store in stores)]
        if missing:
            stores.append(build_store(missing, own))
        self.stores = {str(clip.audio): s for s in reversed(stores) for clip in clips if clip in s}

    def __contains__(self, clip: Clip) -> bool:
        return str(clip.audio) in self.stores

    def wave(self, clip: Clip) -> np.ndarray:
        return self.stores[str(clip.audio)].wave(clip)


@dataclass(frozen=True)
class Statistics:
    """Pooled hidden states, (crops, layers, 2, width), and the clip of each crop."""

    rows: np.ndarray
    clips: list[Clip | None]

    def part(self, keep: Sequence[bool]) -> Statistics:
        places = np.flatnonzero(keep)
        return Statistics(self.rows[places], [self.clips[at] for at in places])


def train_statistics(recipe: HeadsRecipe, encoder: Any, trailing_silence: float) -> Statistics:
    """Crops of the training manifest."""
    clips = list(read_manifest(recipe.train))
    audio = Audio(clips, recipe.stores, recipe.work / "audio-train")
    clips = [clip for clip in clips if clip in audio]
    noises = [c for c in clips if not c.speech and c.dataset not in recipe.crops.no_background]
    crops = plan_crops(clips, recipe.crops, recipe.seed)
    _LOG.info("%d crops of %d clips", len(crops), len(clips))
    names = [crop.name(clips) for crop in crops]
    seconds = [
        crop.seconds if crop.clip is None else min(crop.seconds, clips[crop.clip].duration)
        for crop in crops
    ]
    store = write_statistics(
        encoder,
        names,
        lambda at: crop_wave(crops[at], clips, audio, noises, recipe.crops.changed),
        seconds,
        recipe.work / "crops-train",
        trailing_silence,
    )
    by_name = {
        name: None if crop.clip is None else clips[crop.clip]
        for name, crop in zip(names, crops, strict=True)
    }
    return _statistics(store, by_name)


def dev_statistics(
    recipe: HeadsRecipe, encoder: Any, trailing_silence: float, half: str, short: bool = False
) -> Statistics:
    """Whole clips of one half of dev as they are, or the loudest second of speech in each."""
    halves = read_halves(recipe.dev)
    clips = [clip for clip in read_manifest(recipe.dev) if halves[clip.audio] == half]
    audio = Audio(clips, recipe.stores, recipe.work / "audio-dev")
    clips = [clip for clip in clips if clip in audio and (clip.speech or not short)]
    longest = 0.9 * SHORT_SECONDS if short else LONGEST_SECONDS

    def wave(at: int) -> np.ndarray:
        whole = audio.wave(clips[at])
        return loudest(whole, int(longest * SAMPLE_RATE)) if short else whole[:464_000]

    store = write_statistics(
        encoder,
        [str(clip.audio) for clip in clips],
        wave,
        [min(clip.duration, longest) for clip in clips],
        recipe.work / f"crops-{half}{'-short' if short else ''}",
        trailing_silence,
    )
    return _statistics(store, {str(clip.audio): clip for clip in clips})


def loudest(wave: np.ndarray, count: int) -> np.ndarray:
    """The `count` samples with the most power; all where there are fewer."""
    if len(wave) <= count:
        return wave
    total = np.concatenate([[0.0], np.cumsum(wave.astype(np.float64) ** 2)])
    start = int(np.argmax(total[count:] - total[:-count]))
    return wave[start : start + count]


def _statistics(store: StatisticsStore, by_name: Mapping[str, Clip | None]) -> Statistics:
    places = [at for at, name in enumerate(store.names) if name in by_name]
    return Statistics(np.asarray(store.rows[places]), [by_name[store.names[at]] for at in places])


def logits(heads: Any, statistics: Statistics) -> dict[str, np.ndarray]:
    """By field (crops, labels)."""
    import torch

    pooled = torch.from_numpy(statistics.rows.astype(np.float32)).flatten(1)
    with torch.no_grad():
        return {field: linear(pooled).numpy() for field, linear in heads.linear.items()}


def known_cases(name: str, values: np.ndarray, clips: Sequence[Clip | None]) -> Cases:
    """The clips whose label of a field is known; no label is blurred here.

    Where there is no speech no other field is answered, so a burst's emotion doesn't count.
    """
    plain = TargetOptions(age_blur=0.0, child_gender=1.0)
    wanted = np.stack([clip_target(clip, name, plain) for clip in clips])
    answered = [name == SPEECH or (clip is not None and clip.speech) for clip in clips]
    keep = (wanted.sum(1) > 0) & np.array(answered)
    truth = wanted[keep].argmax(1)
    return Cases(values[keep], truth, np.ones(len(truth)))


def make_set(
    recipe: HeadsRecipe, name: str, train: Statistics, tune: Statistics, short: Statistics
) -> Any:
    """One set of heads, written into the checkpoint folder; what its config says of it."""
    from safetensors.torch import save_file

    targets = recipe.targets
    if name == OPEN:
        train = train.part([clip is None or clip.commercial for clip in train.clips])
    elif recipe.research_targets is not None:
        targets = recipe.research_targets
    heads = fit_heads(train.rows, train.clips, targets, recipe.strengths)
    state = {key: value.contiguous() for key, value in heads.state_dict().items()}
    save_file(state, recipe.checkpoint / FILES[name], metadata={"format": "pt"})
    whole, brief = logits(heads, tune), logits(heads, short)
    ordinary = np.array([is_ordinary(clip, targets) for clip in tune.clips])
    fields = {}
    for field_name in heads.linear:
        labels = TAUGHT[field_name]
        fields[field_name] = calibrate(
            field_name,
            labels,
            known_cases(field_name, whole[field_name], tune.clips),
            None
            if field_name == SPEECH
            else known_cases(field_name, brief[field_name], short.clips),
            whole[field_name][ordinary] if field_name == "Emotion" else None,
            recipe.calibration,
        )
        _LOG.info("%s %s: %s", name, field_name, fields[field_name])
    sources = sorted({clip.dataset for clip in train.clips if clip is not None})
    return {"file": FILES[name], "fields": fields, "data": sources, "licence": LICENCES[name]}


def run_heads(recipe: HeadsRecipe) -> Path:
    """Hears, fits, calibrates and writes; gives the checkpoint's folder.

    Raises:
        ModelError: the checkpoint cannot be read.
    """
    config_file = recipe.checkpoint / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    silence = float(config.get("trailing_silence", 0.0))
    encoder = load_encoder(recipe.checkpoint)
    train = train_statistics(recipe, encoder, silence)
    tune = dev_statistics(recipe, encoder, silence, "tune")
    short = dev_statistics(recipe, encoder, silence, "tune", short=True)
    config["heads"] = {name: make_set(recipe, name, train, tune, short) for name in FILES}
    config["default_heads"] = OPEN
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    config_file.write_text(text, encoding="utf-8")
    ordinary_modes(recipe.checkpoint)
    return recipe.checkpoint


def is_heads_recipe(path: Path) -> bool:
    """Whether a config file of `speechmeta train` is for this recipe."""
    return family(path) == "whisper_meta_heads"
