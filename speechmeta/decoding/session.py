"""Forward passes of a batch whose rows are at different places of their answers.

Each row brings a plan: tokens to feed, some in a chain, some in a tree, and what to read off
them. A session runs the plans of all rows as one pass with one transfer of results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from speechmeta.decoding.cache import SlotCache
from speechmeta.decoding.inputs import Prompt
from speechmeta.decoding.llama import LlamaLayers
from speechmeta.decoding.trees import ROOT, Tree
from speechmeta.errors import DecodingError, ModelError

_SHAPES = 256


@dataclass
class Plan:
    """What one row wants from a pass.

    Attributes:
        chain: tokens that are decided, to be fed in order.
        tree: what may follow them.
        after_chain: whether the best token after the chain is asked for.
        place: the row of the grammar's masks for best tokens.
    """

    chain: list[int]
    tree: Tree | None = None
    after_chain: bool = False
    place: int = 0

    def __len__(self) -> int:
        return len(self.chain) + (len(self.tree) if self.tree else 0)


@dataclass
class Results:
    """What a pass gave one row.

    Attributes:
        edges: log probabilities, in the order of the tree's edges.
        best: best allowed tokens: after the chain if asked for, then the tree's.
    """

    edges: list[float]
    best: list[int]


class Row:
    """One row's place in the cache.

    Attributes:
        number: of the row in the batch as it is now.
        slots: those that hold the row's tokens after the prompt, in order.
        position: of the next token.
        passes: that the row took part in.
    """

    def __init__(self, number: int, position: int) -> None:
        self.number = number
        self.position = position
        self.slots: list[int] = []
        self.passes = 0
        self.tree_at = 0


class Session:
    """A batch in the decoder.

    Args:
        model: a `SpeechLLMForConditionalGeneration`.
        prompts: one per row.
        masks: bool (places, vocabulary) on the model's device: the tokens allowed in a place.
        room: slots to expect after the prompts.
        step: the decoder compiled for single tokens and static shapes, if there is one.
        layers: the decoder's layers without overhead, if they fit; a compiled step goes first.

    Raises:
        ModelError: the decoder's attention implementation takes no mask of its own.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Prompt],
        masks: torch.Tensor | None,
        room: int,
        step: Any = None,
        layers: LlamaLayers | None = None,
    ) -> None:
        self._decoder = model.language_model.get_decoder()
        self._head = model.language_model.lm_head
        self._embed = model.get_input_embeddings()
        self._masks = masks
        implementation = self._decoder.config._attn_implementation
        if implementation not in ("sdpa", "eager"):
            raise ModelError(
                f"the decoder's attention implementation is {implementation!r}",
                "load the model with attn_implementation='sdpa'",
            )
        self._additive = implementation == "eager"
        self._layers = layers
        self.device = self._embed.weight.device
        self._width = max(len(prompt.embeds) for prompt in prompts)
        self._prompts = list(prompts)
        self.rows = [Row(number, len(prompt.embeds)) for number, prompt in enumerate(prompts)]
        self._used = 0
        self._valid = np.zeros((len(prompts), self._width + room), dtype=bool)
        self._step = step
        slots = self._width + room
        if step is not None:
            # Few different capacities, since each is compiled for.
            slots = -(-slots // _SHAPES) * _SHAPES
        self._cache = SlotCache(self._decoder.config.num_hidden_layers, slots)

    def run(self, plans: Sequence[tuple[Row, Plan]]) -> list[Results]:
        """One pass; the first one feeds the prompts too and needs a plan of every row."""
        first = self._used == 0
        width = self._width if first else 0
        size = max(len(plan) for _, plan in plans)
        total = len(self._valid)
        ids = np.zeros((total, size), dtype=np.int64)
        positions = np.zeros((total, width + size), dtype=np.int64)
        base = self._used + width
        end = base + size
        self._reserve(end)
        seen = np.zeros((total, width + size, end), dtype=bool)
        if first:
            self._see_prompts(seen, positions)
        # Padding sees itself: a row of the mask without a single key has no softmax.
        diagonal = np.arange(width + size)
        seen[:, diagonal, self._used + diagonal] = True
        for row, plan in plans:
            self._lay_out(row, plan, ids, positions, seen, width, base)
        hidden = self._forward(ids, positions, seen)
        self._used = end
        return self._read(plans, hidden, width)

    def keep(self, row: Row, nodes: Sequence[int]) -> None:
        """Takes tree nodes of the row's last pass into its text."""
        slots = [row.tree_at + node for node in nodes]
        self._valid[row.number, slots] = True
        row.slots += slots
        row.position += len(slots)

    def drop(self, row: Row, count: int) -> None:
        """Takes the last tokens of the row's text back."""
        if count:
            self._valid[row.number, row.slots[-count:]] = False
            del row.slots[-count:]
            row.position -= count

    def leave(self, active: Sequence[Row]) -> None:
        """Gives up the rows that are not active, where it makes the batch much smaller."""
        if not active or len(active) * 2 > len(self._valid):
            return
        numbers = [row.number for row in active]
        self._valid = self._valid[numbers]
        self._cache.select(torch.tensor(numbers, device=self.device))
        for number, row in enumerate(active):
            row.number = number

    def _reserve(self, slots: int) -> None:
        missing = slots - self._valid.shape[1]
        if missing > 0:
            self._valid = np.pad(self._valid, ((0, 0), (0, missing + 128)))

    def _see_prompts(self, seen: np.ndarray, positions: np.ndarray) -> None:
        causal = np.tril(np.ones((self._width, self._width), dtype=bool))
        for number, prompt in enumerate(self._prompts):
            pad = self._width - len(prompt.embeds)
            seen[number, : self._width, : self._width] = causal
            seen[number, :, :pad] = False
            positions[number, pad : self._width] = np.arange(len(prompt.embeds))
            self._valid[number, pad : self._width] = True

    def _lay_out(
        self,
        row: Row,
        plan: Plan,
        ids: np.ndarray,
        positions: np.ndarray,
        seen: np.ndarray,
        width: int,
        base: int,
    ) -> None:
        number, chain = row.number, len(plan.chain)
        row.passes += 1
        row.tree_at = base + chain
        ids[number, :chain] = plan.chain
        positions[number, width : width + chain] = row.position + np.arange(chain)
        block = seen[number, width : width + len(plan)]
        block[:, :base] = self._valid[number, :base]
        for place in range(chain):
            block[place:, base + place] = True
        if plan.tree:
            size = len(plan.tree)
            ids[number, chain : chain + size] = plan.tree.tokens
            positions[number, width + chain : width + chain + size] = (
                row.position + chain + plan.tree.depths
            )
            block[chain:, base + chain : base + chain + size] = plan.tree.seen
        slots = range(base, base + chain)
        self._valid[number, base : base + chain] = True
        row.slots += slots
        row.position += chain

    def _forward(self, ids: np.ndarray, positions: np.ndarray, seen: np.ndarray) -> torch.Tensor:
        embeds = self._embed(torch.from_numpy(ids).to(self.device))
        if self._used == 0:
            prompts = embeds.new_zeros(len(ids), self._width, embeds.shape[-1])
            for number, prompt in enumerate(self._prompts):
                prompts[number, self._width - len(prompt.embeds) :] = prompt.embeds
            embeds = torch.cat([prompts, embeds], dim=1)
            self._prompts = []
        mask = torch.from_numpy(seen[:, None]).to(self.device)
        if self._additive:
            lowest = torch.finfo(embeds.dtype).min
            mask = torch.zeros(mask.shape, dtype=embeds.dtype, device=self.device).masked_fill(
                ~mask, lowest
            )
        where = torch.from_numpy(positions).to(self.device)
        decoder, fixed = self._decoder, None
        if self._layers is not None and self._step is None:
            return self._layers(embeds, mask, where, self._cache)
        if self._step is not None and embeds.shape[1] == 1 and self._used < self._cache.capacity:
            decoder, fixed = self._step, torch.tensor([self._used], device=self.device)
            mask = torch.nn.functional.pad(mask, (0, self._cache.capacity - mask.shape[-1]))
            if self._additive:
                mask[..., seen.shape[-1] :] = torch.finfo(embeds.dtype).min
        self._cache.fix(fixed)
        output = decoder(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=where,
            cache=self._cache,
            use_cache=True,
        )
        self._cache.fix(None)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def _read(
        self, plans: Sequence[tuple[Row, Plan]], hidden: torch.Tensor, width: int
    ) -> list[Results]:
        """The asked numbers of all rows, in one transfer."""
        length = hidden.shape[1]
        places: dict[int, int] = {}
        edges: list[tuple[int, int]] = []
        best: list[tuple[int, int]] = []
        for row, plan in plans:
            start = row.number * length + width + len(plan.chain)

            def place(node: int, start: int = start) -> int:
                # The root is the chain's end, or the prompt's where there is no chain.
                return places.setdefault(start + node, len(places))

            if plan.after_chain:
                best.append((place(ROOT), plan.place))
            if plan.tree:
                edges += [(place(node), token) for node, token in plan.tree.edges]
                best += [(place(node), plan.place) for node in plan.tree.best]
        flat = hidden.reshape(-1, hidden.shape[-1])
        logits = self._head(flat[torch.tensor(list(places), device=self.device)]).float()
        parts = []
        if edges:
            nodes, tokens = torch.tensor(edges, device=self.device).T
            parts.append(logits[nodes, tokens] - logits.logsumexp(-1)[nodes])
        if best:
            if self._masks is None:
                raise DecodingError("a transcript was asked for without its grammar", "")
            nodes, rows = torch.tensor(best, device=self.device).T
            allowed = self._masks[rows]
            scores = logits[nodes, : allowed.shape[1]].masked_fill(~allowed, -torch.inf)
            top = scores.max(-1)
            parts += [top.values, top.indices.float()]
        numbers: list[float] = torch.cat(parts).tolist()
        return _share(plans, numbers, len(edges), len(best))


def _share(
    plans: Sequence[tuple[Row, Plan]], numbers: list[float], edges: int, best: int
) -> list[Results]:
    results = []
    edge, value = 0, edges
    for _, plan in plans:
        own_edges = len(plan.tree.edges) if plan.tree else 0
        own_best = int(plan.after_chain) + (len(plan.tree.best) if plan.tree else 0)
        tokens = []
        for place in range(value, value + own_best):
            # Not a number stays one: the writer refuses the token -1.
            finite = np.isfinite(numbers[place])
            tokens.append(int(numbers[place + best]) if finite else -1)
        results.append(Results(numbers[edge : edge + own_edges], tokens))
        edge += own_edges
        value += own_best
    return results
