"""The detector of two voices at once: mixtures of recordings of single speakers, and a training.

    speechmeta train recipes/overlap/recipe.yaml

Half of the examples go over a telephone; noise, echo, rooms, music and changes of speaker without
overlap are in both kinds, so that none of them passes for a second voice.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import ConfigDict
from torch.nn import functional

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.audio.telephone import over_the_line
from speechmeta.diarization.overlap import FRAME, OverlapDetector, OverlapNetwork, spectra
from speechmeta.errors import UsageError
from speechmeta.training.manifest import Clip, read_manifest
from speechmeta.training.recipe_files import family, read_recipe_file
from speechmeta.training.voice_windows import LEVEL, LINES
from speechmeta.training.voices import ClipOptions, choose
from speechmeta.training.whisper_meta.store import AudioStore, build_store

_LOG = logging.getLogger(__name__)

Wave = np.ndarray
_FEWEST_SPEAKERS = 2
_ACTIVE = 1e-3
"""Power of a frame, as a share of the louder ones', from which somebody talks in it."""


@dataclass(frozen=True)
class OverlapRecipe:
    """
    Attributes:
        family: tells this recipe from others of `speechmeta train`.
        train: manifest; only rows that are free for commercial use are read.
        work: folder for decoded audio. output: the file that is written.
        threshold: probability from which a frame is overlap.
        origin, licence: noted in the file.
        examples: mixtures. seconds: of each. passes: over all of them. batch: at a time.
        held_out: share of the speakers that only measure.
        noises: most clips of sounds that are no speech.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    family: Literal["overlap"]
    train: Path
    work: Path
    output: Path
    threshold: float
    origin: str
    licence: str
    seed: int = 0
    examples: int = 900
    seconds: float = 8.0
    passes: int = 8
    batch: int = 16
    rate: float = 2e-3
    held_out: float = 0.12
    noises: int = 200
    clips: ClipOptions = field(default_factory=ClipOptions)


def is_overlap_recipe(path: Path) -> bool:
    """Whether a config file of `speechmeta train` is for this recipe."""
    return family(path) == "overlap"


def read_overlap_recipe(path: Path) -> OverlapRecipe:
    """See `speechmeta.training.recipe_files.read_recipe_file`."""
    return read_recipe_file(path, OverlapRecipe, "recipes/overlap/recipe.yaml")


def run_overlap(recipe: OverlapRecipe) -> Path:
    """Makes the file; returns its path.

    Raises:
        UsageError: there are too few speakers.
        SpeechMetaError: a manifest cannot be used.
    """
    rows = list(read_manifest(recipe.train))
    clips = choose(rows, recipe.clips, recipe.seed)
    noises = [clip for clip in rows if clip.commercial and not clip.speech and not clip.speaker]
    random = np.random.default_rng(recipe.seed)
    noises = [noises[int(i)] for i in random.permutation(len(noises))[: recipe.noises]]
    store = build_store([*clips, *noises], recipe.work / "audio")
    sounds = [store.wave(clip) for clip in noises if clip in store]
    known, unknown = voices_of(clips, store, recipe.held_out)
    learn = _examples(known, sounds, recipe, recipe.seed, recipe.examples)
    check = _examples(unknown, sounds, recipe, recipe.seed + 1, max(1, recipe.examples // 10))
    _LOG.info("%d mixtures of %d speakers", len(learn), sum(map(len, known.values())))
    network = fitted(learn, check, recipe)
    recipe.output.parent.mkdir(parents=True, exist_ok=True)
    notes = {"origin": recipe.origin, "licence": recipe.licence}
    OverlapDetector(network, recipe.threshold).save(recipe.output, notes)
    return recipe.output


Voices = dict[str, dict[str, list[Wave]]]
"""Waveforms by source and speaker."""


def voices_of(clips: Sequence[Clip], store: AudioStore, held_out: float) -> tuple[Voices, Voices]:
    """The speakers to learn from and those to measure with, by source.

    Raises:
        UsageError: there are too few.
    """
    known: Voices = defaultdict(lambda: defaultdict(list))
    unknown: Voices = defaultdict(lambda: defaultdict(list))
    step = round(1 / held_out)
    by_source: dict[str, list[str]] = defaultdict(list)
    for clip in clips:
        if clip not in store:
            continue
        names = by_source[clip.dataset]
        speaker = str(clip.speaker)
        if speaker not in names:
            names.append(speaker)
        place = unknown if names.index(speaker) % step == step - 1 else known
        place[clip.dataset][speaker].append(store.wave(clip))
    kept = [
        {source: dict(own) for source, own in half.items() if len(own) >= 2}
        for half in (known, unknown)
    ]
    if any(sum(len(own) for own in half.values()) < _FEWEST_SPEAKERS for half in kept):
        raise UsageError(
            "there are too few speakers to mix",
            "each source needs two to learn from and two to measure with",
        )
    return kept[0], kept[1]


def mixture(
    voices: Voices, sounds: Sequence[Wave], seconds: float, random: np.random.Generator
) -> tuple[Wave, np.ndarray]:
    """One example: (samples,) at 16 kHz and (frames,) whether two voices talk."""
    names = sorted(voices)
    chances = np.array([len(voices[name]) for name in names], dtype=float) ** 0.5
    source = names[int(random.choice(len(names), p=chances / chances.sum()))]
    speakers = sorted(voices[source])
    one, two = (speakers[int(i)] for i in random.permutation(len(speakers))[:2])
    samples = round(seconds * SAMPLE_RATE)
    first = _talk(voices[source][one], samples, random)
    kind = random.random()
    second = np.zeros(samples, np.float32)
    if kind < 0.65:
        second = _remarks(voices[source][two], samples, random)
    elif kind < 0.85:
        # They take turns, one as the other ends: a change of voice is no overlap.
        other = _talk(voices[source][two], samples, random)
        first, second = _in_turns(first, other, random)
    second = second * np.float32(10 ** (random.uniform(-9, 7) / 20))
    both = active(first) & active(second)
    heard = first + second
    heard = _surrounded(heard, sounds, random)
    if random.random() < 0.5:
        codec = LINES[int(random.integers(len(LINES)))]
        heard = over_the_line(0.3 * heard / (np.abs(heard).max() + 1e-6), SAMPLE_RATE, codec)
    if random.random() < 0.1:
        peak = float(np.abs(heard).max())
        heard = np.clip(heard, -peak / 4, peak / 4)
    return heard.astype(np.float32), both


def active(wave: Wave) -> np.ndarray:
    """(frames,) where somebody talks in a clean recording, by its level; gaps of 40 ms are part
    of a word."""
    count = len(wave) // FRAME
    power = np.square(wave[: count * FRAME].reshape(count, FRAME)).mean(1)
    if not power.any():
        return np.zeros(count, np.bool_)
    loud = power > _ACTIVE * np.percentile(power[power > 0], 95)
    loud[1:-1] |= loud[:-2] & loud[2:]
    return np.asarray(loud, dtype=np.bool_)


def _piece(waves: Sequence[Wave], samples: int, random: np.random.Generator) -> Wave:
    """A stretch of a voice at one level, faded at both ends."""
    wave = waves[int(random.integers(len(waves)))]
    if len(wave) > samples:
        start = int(random.integers(0, len(wave) - samples + 1))
        wave = wave[start : start + samples]
    part = wave * (LEVEL / (float(np.sqrt(np.square(wave).mean())) + 1e-6))
    fade = min(160, len(part) // 4)
    if fade:
        ramp = np.linspace(0, 1, fade)
        part[:fade] *= ramp
        part[-fade:] *= ramp[::-1]
    return np.asarray(part, dtype=np.float32)


def _talk(waves: Sequence[Wave], samples: int, random: np.random.Generator) -> Wave:
    track = np.zeros(samples, np.float32)
    place = int(random.uniform(0, 0.8) * SAMPLE_RATE)
    while place < samples:
        part = _piece(waves, round(random.uniform(1.5, 6.0) * SAMPLE_RATE), random)
        part = part[: samples - place]
        track[place : place + len(part)] += part
        place += len(part) + int(random.uniform(0.05, 0.9) * SAMPLE_RATE)
    return track


def _remarks(waves: Sequence[Wave], samples: int, random: np.random.Generator) -> Wave:
    track = np.zeros(samples, np.float32)
    for _ in range(int(random.integers(1, 4))):
        short = random.random() < 0.6
        length = random.uniform(0.3, 1.2) if short else random.uniform(1.0, 3.5)
        part = _piece(waves, round(length * SAMPLE_RATE), random)
        place = int(random.integers(0, max(1, samples - len(part))))
        part = part[: samples - place]
        track[place : place + len(part)] = part
    return track


def _in_turns(one: Wave, other: Wave, random: np.random.Generator) -> tuple[Wave, Wave]:
    turn = np.zeros(len(one), np.float32)
    place, mine = 0, True
    while place < len(turn):
        length = int(random.uniform(0.6, 3.0) * SAMPLE_RATE)
        turn[place : place + length] = mine
        place, mine = place + length, not mine
    return one * turn, other * (1 - turn)


def _surrounded(wave: Wave, sounds: Sequence[Wave], random: np.random.Generator) -> Wave:
    """With a room, an echo, noise and music, each sometimes."""
    heard = wave
    power = float(np.square(wave).mean()) + 1e-9
    if random.random() < 0.3:
        length = int(random.uniform(0.1, 0.35) * SAMPLE_RATE)
        tail = random.standard_normal(length) * np.exp(-np.arange(length) * 6.9 / length)
        tail *= 10 ** (random.uniform(-14, -2) / 20) / np.sqrt(np.square(tail).sum())
        tail[0] = 1.0
        size = 1 << (len(wave) + length - 1).bit_length()
        spectrum = np.fft.rfft(heard, size) * np.fft.rfft(tail, size)
        heard = np.fft.irfft(spectrum, size)[: len(wave)]
    if random.random() < 0.2:
        late = int(random.uniform(0.03, 0.3) * SAMPLE_RATE)
        echo = np.concatenate([np.zeros(late), heard[:-late]])
        heard = heard + echo * 10 ** (-random.uniform(10, 26) / 20)
    if random.random() < 0.6:
        noise = random.standard_normal(len(wave))
        if sounds and random.random() < 0.6:
            noise = np.resize(sounds[int(random.integers(len(sounds)))], len(wave)).astype(float)
        noise *= np.sqrt(power / (np.square(noise).mean() + 1e-9))
        heard = heard + noise * 10 ** (-random.uniform(5, 40) / 20)
    if random.random() < 0.12:
        heard = heard + _music(len(wave), random) * np.sqrt(power) * 10 ** (
            -random.uniform(5, 25) / 20
        )
    return heard


def _music(samples: int, random: np.random.Generator) -> Wave:
    """Chords of power 1 that change every half second or so."""
    time = np.arange(samples) / SAMPLE_RATE
    wave = np.zeros(samples)
    place = 0
    while place < samples:
        end = min(samples, place + int(random.uniform(0.2, 0.8) * SAMPLE_RATE))
        root = 110 * 2 ** (random.integers(0, 24) / 12)
        for step in (0, 4, 7):
            for harmonic in (1, 2, 3):
                tone = root * 2 ** (step / 12) * harmonic
                wave[place:end] += np.sin(2 * np.pi * tone * time[place:end]) / harmonic
        place = end
    return np.asarray(wave / np.sqrt(np.square(wave).mean() + 1e-9))


Example = tuple[torch.Tensor, np.ndarray]
"""Spectra (2 * frames, bins) in half precision, and (frames,) whether two voices talk."""


def _examples(
    voices: Voices, sounds: Sequence[Wave], recipe: OverlapRecipe, seed: int, count: int
) -> list[Example]:
    found = []
    for number in range(count):
        random = np.random.default_rng((seed, number))
        wave, both = mixture(voices, sounds, recipe.seconds, random)
        found.append((spectra(torch.from_numpy(wave)[None])[0].half(), both))
    return found


def fitted(
    learn: Sequence[Example], check: Sequence[Example], recipe: OverlapRecipe
) -> OverlapNetwork:
    """A network trained on mixtures; the pass that told those of the held-out speakers best."""
    torch.manual_seed(recipe.seed)
    network = OverlapNetwork()
    steps = recipe.passes * -(-len(learn) // recipe.batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, max(2, steps + 1))
    random = np.random.default_rng(recipe.seed)
    best, kept = -1.0, network.state_dict()
    for number in range(recipe.passes):
        network.train()
        losses = []
        for seen, truth in _batches(learn, recipe.batch, random):
            logits = network(_masked(seen, random))
            loss = functional.binary_cross_entropy_with_logits(
                logits, truth, pos_weight=torch.tensor(1.5)
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        quality = average_precision(network, check, recipe.batch)
        _LOG.info(
            "pass %d: loss %.4f, average precision %.4f with held-out speakers",
            number + 1, float(np.mean(losses)), quality,
        )  # fmt: skip
        if quality > best:
            best = quality
            kept = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(kept)
    return network


def _batches(
    examples: Sequence[Example], size: int, random: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    order = random.permutation(len(examples))
    for first in range(0, len(order), size):
        part = [examples[int(index)] for index in order[first : first + size]]
        truth = np.stack([both for _, both in part]).astype(np.float32)
        yield torch.stack([seen for seen, _ in part]).float(), torch.from_numpy(truth)


def _masked(values: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Spectra without a band of their bins, as SpecAugment has it (arXiv 1904.08779)."""
    width = int(random.integers(0, 24))
    start = int(random.integers(0, values.shape[-1] - width))
    values[:, :, start : start + width] = 0.0
    return values


@torch.inference_mode()
def average_precision(network: OverlapNetwork, examples: Sequence[Example], size: int) -> float:
    """The area under precision over recall of single frames."""
    from sklearn.metrics import average_precision_score

    network.eval()
    random = np.random.default_rng(0)
    told, truth = [], []
    for seen, both in _batches(examples, size, random):
        told.append(network(seen).numpy().ravel())
        truth.append(both.numpy().ravel())
    flat = np.concatenate(truth)
    return float(average_precision_score(flat, np.concatenate(told))) if flat.any() else 0.0
