"""Training batches: which items, how they are made to sound, what is asked of them.

Everything about batch N follows from the seed and N, so a run that is resumed goes on as if it
had not been stopped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.audio.telephone import AMR_BIT_RATES, lose_packets, over_the_line
from speechmeta.training.augment import add_noise, add_reverb, non_speech
from speechmeta.training.whisper_meta.features import (
    PADDED_SAMPLES,
    batch_features,
    log_mel,
    with_silence,
)
from speechmeta.training.whisper_meta.greedy import Vocabulary
from speechmeta.training.whisper_meta.items import Item
from speechmeta.training.whisper_meta.store import AudioStore
from speechmeta.training.whisper_meta.teacher import TeacherStore

if TYPE_CHECKING:
    from speechmeta.training.manifest import Clip

IGNORED = -100
NOTHING = "no speech"


@dataclass(frozen=True)
class Sounds:
    """How often and how strongly audio is changed; probabilities of a draw.

    Attributes:
        changed: of any change but the level.
        telephone, noise, reverb: of each, among the changed.
        loss: of lost packets, among those over the telephone.
        snr_db: (low, high) of background noise.
        gain_db: (low, high) of the level, for every draw.
        codecs: weight of each codec of the telephone.
    """

    changed: float = 0.55
    telephone: float = 0.65
    noise: float = 0.4
    reverb: float = 0.2
    loss: float = 0.15
    snr_db: tuple[float, float] = (5.0, 30.0)
    gain_db: tuple[float, float] = (-24.0, 3.0)
    codecs: Mapping[str, float] = field(
        default_factory=lambda: {
            "none": 0.3, "mulaw": 0.3, "alaw": 0.17, "gsm": 0.2, "amr": 0.03
        }
    )  # fmt: skip


@dataclass(frozen=True)
class Draw:
    """One row of a batch: an item's place (None: no speech), its random seed, its length."""

    item: int | None
    seed: int
    samples: int


def plan_batches(
    items: Sequence[Item],
    shares: Mapping[str, float],
    batches: int,
    batch_seconds: float,
    seed: int,
) -> list[list[Draw]]:
    """Draws for a whole run, in batches of similar length.

    Args:
        items: what may be drawn.
        shares: by source, and for `NOTHING`, the share of draws; a source's items are gone
            through in random order, all of them before any comes again.
        batches: how many.
        batch_seconds: audio in a batch, silence behind it included.
        seed: of all choices.
    """
    rng = np.random.default_rng(seed)
    places: dict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        places[item.dataset].append(place)
    names = [name for name in shares if name == NOTHING or places[name]]
    weights = np.array([shares[name] for name in names], dtype=float)
    waiting: dict[str, list[int]] = {name: [] for name in names}
    planned: list[list[Draw]] = []
    limit = int(batch_seconds * SAMPLE_RATE)
    while len(planned) < batches:
        pool = []
        for choice in rng.choice(len(names), size=512, p=weights / weights.sum()):
            name, number = names[choice], int(rng.integers(2**31))
            if name == NOTHING:
                samples = int(rng.uniform(0.5, 8.0) * SAMPLE_RATE)
                pool.append(Draw(None, number, samples))
                continue
            if not waiting[name]:
                waiting[name] = [places[name][at] for at in rng.permutation(len(places[name]))]
            place = waiting[name].pop()
            pool.append(Draw(place, number, items[place].samples))
        pool.sort(key=lambda draw: draw.samples)
        made: list[list[Draw]] = []
        batch: list[Draw] = []
        for draw in pool:
            # All rows are as long as the longest, which is the last.
            if batch and (len(batch) + 1) * (draw.samples + SAMPLE_RATE) > limit:
                made.append(batch)
                batch = []
            batch.append(draw)
        made.append(batch)
        planned += [made[at] for at in rng.permutation(len(made))]
    return planned[:batches]


class Batches:
    """A dataset for transformers' Trainer whose every element is a whole batch.

    An element has `features` (batch, mel, frames * 2), `mask` (batch, frames), `tokens` and
    `labels` (batch, tokens), `words_weight` and `original_weight` (batch,): how much the written
    words and the original's distribution count, `states` (batch, frames, width) of the original
    with `states_mask` (batch, frames).
    """

    def __init__(
        self,
        plan: Sequence[Sequence[Draw]],
        items: Sequence[Item],
        texts: Mapping[str, Sequence[int]],
        audio: AudioStore,
        teacher: TeacherStore,
        quiet: Sequence[Clip],
        sounds: Sounds,
        trailing: tuple[float, float],
        trusted: Mapping[str, float],
        vocabulary: Vocabulary,
        mel_bins: int = 80,
        most: int = PADDED_SAMPLES,
    ) -> None:
        """
        Args:
            texts: by item name the token ids of its target; an item without (a crop) teaches
                states alone.
            quiet: clips without speech: noise in the background, and what has no words.
            trailing: (low, high) seconds of silence behind a clip.
            trusted: by source, how much the original's distribution counts; 1 where not named.
            vocabulary: of the tokenizer.
            mel_bins, most: features of a frame, and samples that the encoder has positions for.
        """
        self.plan, self.items, self.texts = plan, items, texts
        self.audio, self.teacher, self.sounds = audio, teacher, sounds
        self.quiet = [clip for clip in quiet if clip in audio]
        self.noises = [clip for clip in self.quiet if clip.dataset != "emogator-bursts"]
        self.trailing, self.trusted = trailing, trusted
        self.vocabulary, self.mel_bins, self.most = vocabulary, mel_bins, most

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> dict[str, Any]:
        import torch

        mels, rows, taught = [], [], []
        for draw in self.plan[number]:
            rng = np.random.default_rng(draw.seed)
            item = None if draw.item is None else self.items[draw.item]
            wave = self.nothing(draw, rng) if item is None else item.wave(self.audio)
            wave = self.sound(wave, rng)
            wave = with_silence(wave, rng.uniform(*self.trailing), self.most)
            mels.append(log_mel(wave, self.mel_bins))
            rows.append(self.asked(item))
            known = item is not None and item.name in self.teacher.answers
            taught.append(self.teacher.states(item.name) if item and known else None)
        features, mask = batch_features(mels)
        longest = max(len(tokens) for tokens, *_ in rows)
        tokens = torch.full((len(rows), longest), self.vocabulary.end)
        labels = torch.full((len(rows), longest), IGNORED)
        states = torch.zeros(len(rows), mask.shape[1], self.teacher.width)
        states_mask = torch.zeros_like(mask)
        for row, (ids, wanted, _, _) in enumerate(rows):
            tokens[row, : len(ids)] = torch.tensor(ids)
            labels[row, : len(wanted)] = torch.tensor(wanted)
            known_states = taught[row]
            if known_states is not None:
                frames = min(len(known_states), int(mask[row].sum()))
                states[row, :frames] = torch.from_numpy(known_states[:frames])
                states_mask[row, :frames] = True
        return {
            "features": features,
            "mask": mask,
            "tokens": tokens,
            "labels": labels,
            "words_weight": torch.tensor([weight for *_, weight, _ in rows]),
            "original_weight": torch.tensor([weight for *_, weight in rows]),
            "states": states,
            "states_mask": states_mask,
        }

    def asked(self, item: Item | None) -> tuple[list[int], list[int], float, float]:
        """Tokens, labels (the next token at each place), and both weights, of an item."""
        words = self.vocabulary
        if item is None:
            return [words.start], [words.no_speech], 1.0, 0.0
        text = self.texts.get(item.name)
        if text is None:
            # Heard, but nothing is known about its words.
            return [words.start], [words.language], 1.0, 0.0
        tokens = [*words.prompt, *text]
        labels = [words.language, IGNORED, IGNORED, *text, words.end]
        known = item.name in self.teacher.answers
        return tokens, labels, 1.0, self.trusted.get(item.dataset, 1.0) if known else 0.0

    def nothing(self, draw: Draw, rng: np.random.Generator) -> np.ndarray:
        """A stretch without speech: recorded, or made up."""
        if not self.quiet or rng.random() < 0.4:
            return non_speech(rng, draw.samples / SAMPLE_RATE)
        wave = self.audio.wave(self.quiet[int(rng.integers(len(self.quiet)))])
        start = int(rng.integers(max(1, len(wave) - draw.samples + 1)))
        return wave[start : start + draw.samples]

    def sound(self, wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One random version of a waveform, of the same length."""
        sounds = self.sounds
        wave = wave[: self.most]
        if rng.random() < sounds.changed:
            if rng.random() < sounds.reverb:
                wave = add_reverb(wave, rng)
            if self.noises and rng.random() < sounds.noise:
                noise = self.audio.wave(self.noises[int(rng.integers(len(self.noises)))])
                if rng.random() < 0.3 or not len(noise):
                    noise = rng.standard_normal(len(wave)).astype(np.float32)
                start = int(rng.integers(len(noise)))
                wave = add_noise(wave, np.roll(noise, -start), rng.uniform(*sounds.snr_db))
            wave = np.clip(wave * 10 ** (rng.uniform(*sounds.gain_db) / 20), -1.0, 1.0)
            wave = wave.astype(np.float32)
            if rng.random() < sounds.telephone:
                names = list(sounds.codecs)
                weights = np.array([sounds.codecs[name] for name in names])
                codec: Any = names[int(rng.choice(len(names), p=weights / weights.sum()))]
                low, high = rng.uniform(150, 320), rng.uniform(3200, 3800)
                rate = int(rng.choice(AMR_BIT_RATES))
                wave = over_the_line(wave, SAMPLE_RATE, codec, (low, high), rate)
                if rng.random() < sounds.loss:
                    share = rng.uniform(0.01, 0.08)
                    wave = lose_packets(wave, SAMPLE_RATE, share, rng, rng.random() < 0.7)
            return wave
        gained = wave * 10 ** (rng.uniform(*sounds.gain_db) / 20)
        return np.clip(gained, -1.0, 1.0).astype(np.float32)
