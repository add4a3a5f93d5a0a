"""From examples to batches: tensors, which clips come together, and the loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Sampler

from speechmeta.audio.loading import SAMPLE_RATE
from speechmeta.models.speechllm import SpeechLLMProcessor
from speechmeta.training.dataset import CLOSED_SETS, TRANSCRIPT, ClipDataset, Example

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
