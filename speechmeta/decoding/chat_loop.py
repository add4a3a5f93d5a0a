"""The generation loop of chat: batched prefill on top of reused keys and values, then steps.

Knows embeddings, ids and caches; nothing of audio, prompts or text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicCache

from speechmeta.decoding.structured import Constraint
from speechmeta.errors import UsageError

Layers = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen.

    Attributes:
        max_new_tokens: most tokens of an answer, its end token included.
        do_sample: draw from the distribution; otherwise the most likely token is taken and
            temperature, top_k and top_p have no effect.
        temperature: divides the logits; above 0.
        top_k: draw among this many of the most likely tokens; 0 for all.
        top_p: draw among the most likely tokens that together have this probability.
        repetition_penalty: divides the logits of the answer's earlier tokens; 1 for none.
        seed: makes sampling repeatable; None draws afresh every time.
    """

    max_new_tokens: int = 512
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "seed"):
            value = getattr(self, name)
            if not isinstance(value, Integral) and not (name == "seed" and value is None):
                raise UsageError(f"{name} is {value!r}", "give a whole number")
        for name in ("temperature", "top_p", "repetition_penalty"):
            if not isinstance(getattr(self, name), Real):
                raise UsageError(f"{name} is {getattr(self, name)!r}", "give a number")
        checks = {
            "max_new_tokens": self.max_new_tokens >= 1,
            "temperature": 0 < self.temperature < float("inf"),
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "repetition_penalty": 0 < self.repetition_penalty < float("inf"),
        }
        for name, good in checks.items():
            if not good:
                raise UsageError(
                    f"{name} is {getattr(self, name)}",
                    "max_new_tokens from 1, temperature and repetition_penalty above 0, "
                    "top_k from 0, top_p in (0, 1]",
                )


def sampling_options(options: dict[str, Any]) -> SamplingOptions:
    """Options by name.

    Raises:
        UsageError: a name is not known, or a value cannot be.
    """
    known = [item.name for item in fields(SamplingOptions)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise UsageError(
            f"chat does not take {', '.join(unknown)}", f"options are {', '.join(known)}"
        )
    return SamplingOptions(**options)


class PrefixStore:
    """Keys and values of recent conversations, found again by their longest common beginning.

    Args:
        max_tokens: what is kept at most over all conversations; the oldest go first. 0 keeps
            nothing.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._entries: OrderedDict[int, tuple[list[Hashable], Layers]] = OrderedDict()
        self._count = 0

    def find(self, key: Sequence[Hashable]) -> tuple[int, Layers]:
        """How many first elements of `key` are there, and their keys and values.

        At least the last element is always left over, because its logits are wanted.
        """
        best, number = 0, None
        for index, (stored, _) in self._entries.items():
            common = 0
            for ours, theirs in zip(key[:-1], stored, strict=False):
                if ours != theirs:
                    break
                common += 1
            if common > best:
                best, number = common, index
        if number is None:
            return 0, []
        self._entries.move_to_end(number)
        layers = self._entries[number][1]
        return best, [(keys[:, :, :best], values[:, :, :best]) for keys, values in layers]

    def put(self, key: Sequence[Hashable], layers: Layers) -> None:
        """Keeps a conversation; one that it continues is dropped."""
        if len(key) > self.max_tokens:
            return
        for index, (stored, _) in list(self._entries.items()):
            if list(key[: len(stored)]) == stored:
                del self._entries[index]
        self._count += 1
        self._entries[self._count] = (list(key), layers)
        while sum(len(stored) for stored, _ in self._entries.values()) > self.max_tokens:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        self._entries.clear()


@dataclass
class LoopRow:
    """One conversation of a batch.

    Attributes:
        key: one hashable for every prompt position; equal keys mean equal embeddings.
        embeds: (new positions, width), of the positions that are not reused.
        reused: how many first positions come from `layers`.
        layers: their keys and values, (1, heads, reused, head width) each.
        tokens: what was generated.
        finish: "stop", "length" or "" while it runs.
    """

    key: list[Hashable]
    embeds: torch.Tensor
    reused: int = 0
    layers: Layers = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    finish: str = ""


def generate(
    language_model: PreTrainedModel,
    rows: Sequence[LoopRow],
    options: SamplingOptions,
    stop_ids: Sequence[int],
    pad_id: int,
    constraint: Constraint | None = None,
    store: PrefixStore | None = None,
) -> Iterator[list[int | None]]:
    """Generates row by row in step; yields each step's tokens, None for rows that have ended.

    Rows are filled in with their tokens as the steps go. When all have ended, or the caller
    closes the iterator, what was computed goes to `store`.

    Args:
        language_model: a causal model of transformers with full attention.
        stop_ids: tokens that end an answer; they are yielded and kept.
        pad_id: fed to rows that have ended.
    """
    device = rows[0].embeds.device
    cache, mask, position_ids, embeds = _start(language_model, rows)
    sampler = _Sampler(options)
    history = torch.empty(len(rows), 0, dtype=torch.long, device=device)
    inputs: dict[str, torch.Tensor] = {"inputs_embeds": embeds}
    # Between steps cache and mask agree; a failure within a step leaves nothing to keep.
    settled = False
    try:
        while True:
            output = language_model(
                **inputs,
                attention_mask=mask,
                position_ids=position_ids,
                cache=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = output.logits[:, -1].float()
            if constraint is not None:
                logits = constraint.mask(logits, history[:, -1:].flatten().tolist())
            chosen = sampler.choose(history.to(logits.device), logits)
            tokens: list[int | None] = [
                None if row.finish else token for row, token in zip(rows, chosen, strict=True)
            ]
            complete = constraint.advance(tokens) if constraint is not None else None
            for index, (row, token) in enumerate(zip(rows, tokens, strict=True)):
                if token is None:
                    continue
                row.tokens.append(token)
                if complete[index] if complete is not None else token in stop_ids:
                    row.finish = "stop"
                elif len(row.tokens) >= options.max_new_tokens:
                    row.finish = "length"
            settled = True
            yield tokens
            if all(row.finish for row in rows):
                return
            settled = False
            fed = [[pad_id if token is None else token] for token in tokens]
            inputs = {"input_ids": torch.tensor(fed, device=device)}
            history = torch.cat([history, inputs["input_ids"]], dim=1)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            position_ids = position_ids[:, -1:] + 1
    finally:
        if store is not None and settled:
            _keep(store, rows, cache, mask)


def _start(
    language_model: PreTrainedModel, rows: Sequence[LoopRow]
) -> tuple[DynamicCache, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cache, mask (rows, all positions), position ids and embeddings of the new positions.

    A row is [padding, reused, padding, new]; its positions count without the paddings.
    """
    device, width = rows[0].embeds.device, rows[0].embeds.shape[-1]
    reused = max(row.reused for row in rows)
    new = max(len(row.embeds) for row in rows)
    mask = torch.zeros(len(rows), reused + new, dtype=torch.long, device=device)
    embeds = torch.zeros(len(rows), new, width, dtype=rows[0].embeds.dtype, device=device)
    for index, row in enumerate(rows):
        mask[index, reused - row.reused : reused] = 1
        mask[index, reused + new - len(row.embeds) :] = 1
        embeds[index, new - len(row.embeds) :] = row.embeds
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, reused:]
    cache = DynamicCache(config=language_model.config)
    if reused:
        first = next(row for row in rows if row.reused)
        for layer, (keys, values) in enumerate(first.layers):
            stacked = []
            for part, like in ((0, keys), (1, values)):
                padded = like.new_zeros(len(rows), like.shape[1], reused, like.shape[3])
                for index, row in enumerate(rows):
                    if row.reused:
                        padded[index, :, reused - row.reused :] = row.layers[layer][part][0]
                stacked.append(padded)
            cache.update(stacked[0], stacked[1], layer)
    return cache, mask, positions, embeds


def _keep(
    store: PrefixStore, rows: Sequence[LoopRow], cache: DynamicCache, mask: torch.Tensor
) -> None:
    """Stores each row's prompt and answer, as far as they went through the model."""
    length = cache.get_seq_length()
    for index, row in enumerate(rows):
        # An answer's last token was never fed, and what was fed after it is padding.
        key = [*row.key, *row.tokens]
        real = mask[index, :length].nonzero()[:, 0][: len(key)]
        key = key[: len(real)]
        whole = len(rows) == 1 and len(real) == length
        layers = []
        for layer in cache.layers:
            keys, values = layer.keys, layer.values
            if not whole:
                places = real.to(keys.device)
                keys = keys[index : index + 1].index_select(2, places)
                values = values[index : index + 1].index_select(2, places)
            layers.append((keys, values))
        store.put(key, layers)


class _Sampler:
    def __init__(self, options: SamplingOptions) -> None:
        self.options = options
        self.generator: torch.Generator | None = None
        self.processors = LogitsProcessorList()
        if options.repetition_penalty != 1:
            self.processors.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
        if options.do_sample:
            if options.temperature != 1:
                self.processors.append(TemperatureLogitsWarper(options.temperature))
            if options.top_k:
                self.processors.append(TopKLogitsWarper(options.top_k))
            if options.top_p < 1:
                self.processors.append(TopPLogitsWarper(options.top_p))

    def choose(self, history: torch.Tensor, logits: torch.Tensor) -> list[int]:
        """One token a row; masked tokens (-inf) stay masked through every processor."""
        if history.shape[1]:
            logits = self.processors(history, logits)
        else:
            # There is nothing to repeat yet, and the penalty cannot gather from no tokens.
            for processor in self.processors:
                if not isinstance(processor, RepetitionPenaltyLogitsProcessor):
                    logits = processor(history, logits)
        if not self.options.do_sample:
            greedy: list[int] = logits.argmax(-1).tolist()
            return greedy
        if self.options.seed is not None and self.generator is None:
            self.generator = torch.Generator(logits.device).manual_seed(self.options.seed)
        drawn = torch.multinomial(logits.softmax(-1), 1, generator=self.generator)
        chosen: list[int] = drawn[:, 0].tolist()
        return chosen


__all__ = ["LoopRow", "PrefixStore", "SamplingOptions", "generate", "sampling_options"]
