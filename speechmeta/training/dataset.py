"""From clips to batches: which text a clip teaches, and which of its tokens count."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from speechmeta.audio import SAMPLE_RATE
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

TARGETS = (
    "labels",
    "kinds",
    "weights",
    "ctc_targets",
    "ctc_lengths",
    "classes",
    "class_weights",
    "phones",
)
"""What a batch holds beside the model's inputs."""

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
                label: round(part / sum(parts.values()), 5)
                for label, part in parts.items()
                if part > 0
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


class Collator:
    """Pads examples into one batch of tensors."""

    def __init__(
        self, processor: SpeechLLMProcessor, token_noise: float, vocab_size: int, blank: int
    ) -> None:
        self.processor, self.token_noise = processor, token_noise
        self.vocab_size, self.blank = vocab_size, blank
        self.before, self.after = processor.prompt_ids()

    def __call__(self, examples: list[Example]) -> dict[str, Any]:
        batch = self.processor.prepare_audio([example.wave for example in examples])
        samples = batch["input_values"].shape[1]
        spare = int(_grid(samples / SAMPLE_RATE) * SAMPLE_RATE) - samples
        batch = {name: functional.pad(tensor, (0, spare)) for name, tensor in batch.items()}
        rows, answers = [], []
        for example in examples:
            places = self.processor.num_audio_tokens(len(example.wave))
            prompt = [*self.before, *[self.processor.audio_token_id] * places, *self.after]
            seen = torch.tensor(example.answer)
            if self.token_noise:
                spoken = torch.tensor(example.kinds) == TRANSCRIPT
                noisy = spoken & (torch.rand(len(seen)) < self.token_noise)
                # Ids under 260 are special tokens and bytes, which never stand in a transcript.
                seen[noisy] = torch.randint(260, self.vocab_size, (int(noisy.sum()),))
            rows.append(torch.cat([torch.tensor(prompt), seen]))
            answers.append((len(prompt), example))
        width = -(-max(map(len, rows)) // 32) * 32
        input_ids = torch.full((len(rows), width), self.blank)
        attention = torch.zeros_like(input_ids)
        labels = torch.full((len(rows), width), -100)
        kinds = torch.zeros((len(rows), width), dtype=torch.long)
        weights = torch.zeros((len(rows), width))
        for number, (row, (start, example)) in enumerate(zip(rows, answers, strict=True)):
            # Padding goes right: a causal decoder never sees it, and positions need no care.
            input_ids[number, : len(row)] = row
            attention[number, : len(row)] = 1
            stop = start + len(example.answer)
            labels[number, start:stop] = torch.tensor(example.answer)
            kinds[number, start:stop] = torch.tensor(example.kinds)
            weights[number, start:stop] = torch.tensor(example.weights)
        targets = [example.ctc for example in examples]
        unknown = {name: ([0.0] * len(values), 0.0) for name, values in CLOSED_SETS.items()}
        classes = [
            [example.classes.get(name, unknown[name]) for name in CLOSED_SETS]
            for example in examples
        ]
        return {
            "input_values": batch["input_values"],
            "audio_attention_mask": batch["audio_attention_mask"],
            "input_ids": input_ids,
            "attention_mask": attention,
            "labels": labels,
            "kinds": kinds,
            "weights": weights,
            "ctc_targets": torch.tensor([t for ids in targets for t in ids or []]).long(),
            "ctc_lengths": torch.tensor([-1 if ids is None else len(ids) for ids in targets]),
            "classes": torch.tensor([[s for shares, _ in row for s in shares] for row in classes]),
            "phones": self._phone_frames(examples, batch["input_values"].shape[1]),
            "class_weights": torch.tensor([[weight for _, weight in row] for row in classes]),
        }

    def _phone_frames(self, examples: list[Example], samples: int) -> torch.Tensor:
        """(batch, encoder frames) long: the phone at each frame's middle, -100 where unknown."""
        count, reach, stride = samples, 1, 1
        # The connector's three convolutions come after the frames.
        for kernel, step in zip(
            self.processor.conv_kernels[:-3], self.processor.conv_strides[:-3], strict=True
        ):
            count, reach = (count - kernel) // step + 1, reach + (kernel - 1) * stride
            stride *= step
        middles = np.arange(count) * stride + reach / 2 - self.processor.margin_samples
        frames = torch.full((len(examples), count), -100)
        for row, example in zip(frames, examples, strict=True):
            if example.phones:
                places, ends = (np.array(column) for column in zip(*example.phones, strict=True))
                at = np.searchsorted(ends, middles, side="right")
                inside = (middles >= 0) & (at < len(ends))
                row[torch.from_numpy(inside)] = torch.from_numpy(places[at[inside]])
        return frames


def _grid(seconds: float) -> float:
    """A duration rounded up to steps of half a second, from 8 seconds on of one second."""
    step = 0.5 if seconds < 8 else 1.0
    return max(step, float(np.ceil(seconds / step)) * step)


class SecondsSampler(Sampler[list[int]]):
    """Batches of about equally long clips with a bound on padded seconds, in random order.

    Args:
        short_first: the first epoch goes from short clips to long ones (SortaGrad, Amodei et al.,
            arXiv 1512.02595): CTC finds its alignments there.
        share: (number, count) of the processes that learn together, which share the batches.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_seconds: float,
        seed: int,
        short_first: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.dataset, self.batch_seconds, self.seed = dataset, batch_seconds, seed
        self.short_first, (self.rank, self.world) = short_first, share
        self.epoch = 0
        self._planned: tuple[int, list[list[int]]] | None = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches())

    def __len__(self) -> int:
        return len(self._batches())

    def _batches(self) -> list[list[int]]:
        if self._planned is None or self._planned[0] != self.epoch:
            self._planned = (self.epoch, self._plan())
        return self._planned[1]

    def _plan(self) -> list[list[int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        chosen: list[tuple[float, int]] = []
        for index in range(len(self.dataset)):
            weight = self.dataset.weight(index)
            times = int(weight) + (rng.random() < weight % 1)
            share = self.dataset.crop_share(index) if times else 0.0
            for _ in range(times):
                cropped = share > 0 and rng.random() < share
                drawn = index + len(self.dataset) if cropped else index
                chosen.append((self.dataset.seconds(drawn), drawn))
        # Few distinct shapes: CPU kernels are compiled anew for every one that is new.
        bins: dict[float, list[int]] = {}
        for length, index in chosen:
            bins.setdefault(_grid(length), []).append(index)
        batches = []
        for length, members in sorted(bins.items()):
            size = max(1, int(self.batch_seconds / length))
            shuffled = [members[place] for place in rng.permutation(len(members))]
            batches += [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
        order = rng.permutation(len(batches))
        if self.epoch == 0 and self.short_first:
            # Blocks of a tenth keep their places, so that voices and sources still mix.
            order = np.argsort(
                np.arange(len(batches)) + rng.uniform(0, len(batches) / 10, len(batches))
            )
        own = order[self.rank :: self.world][: len(order) // self.world]
        return [batches[number] for number in own]


class EpochLoader(DataLoader[Any]):
    """A loader that tells its batch sampler the epoch, as `Trainer` tells the loader."""

    def set_epoch(self, epoch: int) -> None:
        assert isinstance(self.batch_sampler, SecondsSampler)
        self.batch_sampler.set_epoch(epoch)
