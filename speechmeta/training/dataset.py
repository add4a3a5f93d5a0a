"""From clips to examples: which text a clip teaches, and which of its tokens count."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch.utils.data import Dataset

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.decoding.layout import SPEECH_VALUES
from speechmeta.models.speechllm import SpeechLLMProcessor
from speechmeta.schema import DEFAULT_LABEL_SETS, LABEL_FIELDS
from speechmeta.training.augment import augment, non_speech
from speechmeta.training.cache import AudioCache
from speechmeta.training.config import TrainConfig
from speechmeta.training.manifest import Clip
from speechmeta.training.text import normalize_transcript

TRANSCRIPT, LABEL, FORCED = 1, 2, 3
"""What a target token is: part of the transcript, a label, or text that the grammar forces."""

_DROP_LABEL = 0.1
_MIN_SECONDS = 0.15
_MOST_LABEL_WEIGHT = 6.0
_AGE_BOUNDS = (30.0, 60.0)


@dataclass
class Example:
    """One clip as it is trained on, augmented.

    Attributes:
        wave: (samples,) float32 at 16 kHz.
        answer: token ids of the answer and the end token.
        kinds: per answer token one of TRANSCRIPT, LABEL, FORCED.
        weights: per answer token the weight of its loss.
        ctc: token ids of the transcript, or None where it is not known.
        classes: by closed field, the share of each value of its label set, and how much it weighs.
        phones: places in the dataset's `phone_names`, and where each ends, in samples; empty if
            unknown.
    """

    wave: np.ndarray
    answer: list[int]
    kinds: list[int]
    weights: list[float]
    ctc: list[int] | None
    classes: dict[str, tuple[list[float], float]] = dataclasses.field(default_factory=dict)
    phones: list[tuple[int, float]] = dataclasses.field(default_factory=list)


CLOSED_SETS: dict[str, list[str]] = {"SpeechActivity": list(SPEECH_VALUES), **DEFAULT_LABEL_SETS}
"""The fields with a closed set of values, as they are written."""


def closed_classes(values: Mapping[str, str]) -> dict[str, int]:
    """By closed field, the place of a known value in its set."""
    return {
        name: labels.index(values[name]) for name, labels in CLOSED_SETS.items() if name in values
    }


def age_shares(years: float, doubt: float) -> list[float]:
    """How much a speaker counts as each age group, in the order of the label set.

    Args:
        years: the speaker's age.
        doubt: standard deviation, in years, of where a group ends.
    """
    reached = [0.5 * (1 + math.erf((years - bound) / (doubt * 2**0.5))) for bound in _AGE_BOUNDS]
    return [before - after for before, after in pairwise([1.0, *reached, 0.0])]


def _voice(clip: Clip) -> tuple[str, str]:
    return clip.dataset, clip.speaker or str(clip.audio)


class ClipDataset(Dataset[Example]):
    """Clips, each drawn with fresh augmentation.

    Ids beyond the clips are made-up non-speech, and those from `len` of the dataset on are crops
    of the clips in turn.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        cache: AudioCache,
        processor: SpeechLLMProcessor,
        config: TrainConfig,
        train: bool = True,
    ) -> None:
        self.clips, self.cache, self.processor = clips, cache, processor
        self.config, self.train = config, train
        self.layout = processor.layout
        self.transcripts = [
            normalize_transcript(clip.transcript) if clip.transcript else None for clip in clips
        ]
        self.phone_names = sorted({name for clip in clips for name, _ in clip.phones})
        self._phone_ids = {name: place for place, name in enumerate(self.phone_names)}
        self.noises = [
            partial(cache.__getitem__, index)
            for index, clip in enumerate(clips)
            if not clip.speech and cache.seconds(index) > 1
        ]
        recorded = len(clips)
        self.generated = int(recorded * config.data.generated_non_speech) if train else 0
        self._generator: np.random.Generator | None = None
        self.label_weights = self._label_weights()

    def _label_weights(self) -> list[dict[str, float]]:
        """Per clip, how much each of its labels counts: rare labels and rare voices more.

        A thousand clips of one reader say no more about an accent than a few do.
        """
        optim, speakers = self.config.optim, Counter(map(_voice, self.clips))
        weights: list[dict[str, float]] = [{} for _ in self.clips]
        for field in LABEL_FIELDS:
            known = [number for number, clip in enumerate(self.clips) if field in clip.labels]
            voices = {n: speakers[_voice(self.clips[n])] ** -optim.speaker_balance for n in known}
            drawn = {n: self.weight(n) for n in known}
            mass: dict[str, float] = defaultdict(float)
            for number in known:
                mass[self.clips[number].labels[field]] += voices[number] * drawn[number]
            whole = {
                n: voices[n] * mass[self.clips[n].labels[field]] ** -optim.label_balance
                for n in known
            }
            mean = sum(whole[n] * drawn[n] for n in known) / max(sum(drawn.values()), 1e-9)
            for number in known:
                weights[number][field] = min(whole[number] / mean, _MOST_LABEL_WEIGHT)
        return weights

    def label_shares(self) -> dict[str, dict[str, float]]:
        """By field the share of each label that occurs, as the losses weigh it."""
        mass: dict[str, dict[str, float]] = {field: defaultdict(float) for field in LABEL_FIELDS}
        for number, (clip, weights) in enumerate(zip(self.clips, self.label_weights, strict=True)):
            classes = closed_classes(clip.labels)
            for field, weight in weights.items():
                shares = self._shares(clip, field, classes[field])
                for label, share in zip(CLOSED_SETS[field], shares, strict=True):
                    mass[field][label] += share * weight * self.weight(number)
        return {
            field: {
                # A share of nothing cannot be divided by.
                label: share
                for label, part in parts.items()
                if (share := round(part / sum(parts.values()), 5)) > 0
            }
            for field, parts in mass.items()
            if sum(parts.values()) > 0
        }

    def _shares(self, clip: Clip | None, field: str, place: int) -> list[float]:
        """How much a clip counts as each value of a closed field, of which it has one."""
        doubt = self.config.optim.age_doubt
        if field == "Age" and doubt and clip is not None and clip.years is not None:
            return age_shares(clip.years, doubt)
        return [float(other == place) for other in range(len(CLOSED_SETS[field]))]

    def __len__(self) -> int:
        return len(self.clips) + self.generated

    def seconds(self, index: int) -> float:
        """Duration of what an id gives, before changes of speed."""
        if index >= len(self):
            return self.config.data.crop_seconds
        if index >= len(self.clips):
            return 3.0
        return min(self.cache.seconds(index), self.config.data.max_seconds)

    def weight(self, index: int) -> float:
        """How often an id is drawn in one epoch on average; 0 for clips without use."""
        if index >= len(self.clips):
            return 1.0
        if self.cache.seconds(index) < _MIN_SECONDS:
            return 0.0
        return self.config.data.weights.get(self.clips[index].dataset, 1.0)

    def crop_share(self, index: int) -> float:
        """The share of an id's draws that hear only a part of it."""
        crops = self.config.data.crops
        # Half as long again, or all crops would be nearly the same.
        if not crops or self.seconds(index) < 1.5 * self.config.data.crop_seconds:
            return 0.0
        return 0.0 if index >= len(self.clips) else crops.get(self.clips[index].dataset, 0.0)

    def _rng(self) -> np.random.Generator:
        if self._generator is None:
            # Worker processes get different torch seeds; NumPy's would all be the same.
            self._generator = np.random.default_rng(torch.initial_seed() % 2**63)
        return self._generator

    def __getitem__(self, index: int) -> Example:
        rng = self._rng()
        cropped = index >= len(self)
        index -= len(self) if cropped else 0
        if index >= len(self.clips):
            wave = non_speech(rng, float(rng.uniform(0.5, 6.0)))
            if rng.random() < 0.3:
                wave = augment(wave, rng, self.config.augment, [])
            return self._example(wave, {"SpeechActivity": "False"}, None)
        clip, wave = self.clips[index], self.cache[index]
        transcript = self.transcripts[index]
        phones: list[tuple[int, float]] = []
        limit = int(self.config.data.max_seconds * SAMPLE_RATE)
        if cropped:
            count = int(self.config.data.crop_seconds * SAMPLE_RATE)
            start = int(rng.integers(len(wave) - count))
            wave, transcript = wave[start : start + count], None
        elif len(wave) > limit:
            count = int(limit * rng.uniform(0.4, 0.8)) if self.train else limit
            start = int(rng.integers(len(wave) - count)) if self.train else 0
            wave, transcript = wave[start : start + count], None
        elif clip.phones:
            phones = [(self._phone_ids[n], end * SAMPLE_RATE) for n, end in clip.phones]
        samples = len(wave)
        if self.train:
            wave = augment(wave, rng, self.config.augment, self.noises if clip.speech else [])
        if not clip.speech:
            return self._example(wave, {"SpeechActivity": "False"}, None)
        values = {"SpeechActivity": "True"}
        for field, label in clip.labels.items():
            if not self.train or rng.random() >= _DROP_LABEL:
                values[field] = label
        example = self._example(wave, values, transcript, index)
        # Another speed moves all ends alike.
        example.phones = [(place, end * len(wave) / samples) for place, end in phones]
        return example

    def _example(
        self,
        wave: np.ndarray,
        values: dict[str, str],
        transcript: str | None,
        index: int | None = None,
    ) -> Example:
        clip = None if index is None else self.clips[index]
        label_weights = {} if index is None else self.label_weights[index]
        layout, tokenizer = self.layout, self.processor.tokenizer
        ctc: list[int] | None = [] if values["SpeechActivity"] == "False" else None
        if transcript:
            values = {**values, "Transcript": layout.transcript_lead + transcript}
        answer: list[int] = []
        kinds: list[int] = []
        weights: list[float] = []

        def add(text: str, kind: int, weight: float) -> list[int]:
            ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
            answer.extend(ids)
            kinds.extend([kind] * len(ids))
            weights.extend([weight] * len(ids))
            return ids

        fields = layout.arrange(values)
        for place, field in enumerate(fields):
            # The quote that ends a transcript is the model's own decision to stop.
            after_transcript = place > 0 and fields[place - 1] == "Transcript"
            kind = TRANSCRIPT if after_transcript else FORCED
            add(layout.before_value(fields, place), kind, 1.0)
            if field == "Transcript":
                ctc = add(values[field], TRANSCRIPT, 1.0)
            else:
                add(values[field], LABEL, label_weights.get(field, 1.0))
        add(layout.after_last, TRANSCRIPT if fields[-1] == "Transcript" else FORCED, 1.0)
        answer.append(tokenizer.eos_token_id)
        kinds.append(FORCED)
        weights.append(1.0)
        classes = {
            name: (self._shares(clip, name, place), label_weights.get(name, 1.0))
            for name, place in closed_classes(values).items()
        }
        return Example(wave, answer, kinds, weights, ctc, classes)
