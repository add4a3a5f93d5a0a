"""Forward passes of a batch whose rows are at different places of their answers.

Each row brings a plan: tokens to feed, some in a chain, some in a tree, and what to read off
them. A session runs the plans of all rows as one pass with one transfer of results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
import torch

from speechmeta.decoding.decoders import C, Decoder
from speechmeta.decoding.inputs import Prompt
from speechmeta.decoding.masks import Masks
from speechmeta.decoding.trees import ROOT, Tree
from speechmeta.errors import DecodingError

_CACHED = 2
"""Rows of logits that are read together where there are many."""


@dataclass
class Plan:
    """What one row wants from a pass.

    Attributes:
        chain: tokens that are decided, to be fed in order.
        tree: what may follow them.
        after_chain: whether the best token after the chain is asked for.
        place: the row of the grammar's masks for best tokens.
        places: the same for each of the tree's best tokens, where they differ.
    """

    chain: list[int]
    tree: Tree | None = None
    after_chain: bool = False
    place: int = 0
    places: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.chain) + (len(self.tree) if self.tree is not None else 0)


@dataclass
class Results:
    """What a pass gave one row.

    Attributes:
        edges: log probabilities, in the order of the tree's edges.
        best: best allowed tokens: after the chain if asked for, then the tree's; -1 where the
            model's numbers are not finite.
        log_probs: theirs, as the model gives them before what is not allowed is left out.
    """

    edges: list[float]
    best: list[int]
    log_probs: list[float]

    def after(self, count: int) -> Results:
        """Without this many of the best tokens."""
        return Results(self.edges, self.best[count:], self.log_probs[count:])


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

    def copy(self, number: int) -> Row:
        """The same place in another row of the batch."""
        other = Row(number, self.position)
        other.slots, other.passes = list(self.slots), self.passes
        return other


class Session(Generic[C]):
    """A batch in the decoder.

    Args:
        decoder: whose passes are run.
        prompts: one per row.
        masks: the tokens allowed in each place of the text, where plans ask for best ones.
        room: slots to expect after the prompts.
    """

    def __init__(
        self, decoder: Decoder[C], prompts: Sequence[Prompt], masks: Masks | None, room: int
    ) -> None:
        self._decoder = decoder
        self._masks = masks
        self.device = decoder.device
        self._width = max(len(prompt.embeds) for prompt in prompts)
        self._prompts = list(prompts)
        self.rows = [Row(number, len(prompt.embeds)) for number, prompt in enumerate(prompts)]
        self._used = 0
        self._valid = np.zeros((len(prompts), self._width + room), dtype=bool)
        self._cache = decoder.start(prompts, self._width + room)

    def run(self, plans: Sequence[tuple[Row, Plan]], top: int = 1) -> list[Results]:
        """One pass; the first one feeds the prompts too and needs a plan of every row.

        With `top`, this many of the best tokens are given for each that was asked for.
        """
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
        return self._read(plans, hidden, width, top)

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

    def take(self, rows: Sequence[Row]) -> list[Row]:
        """Rebuilds the batch from copies of some rows, a row as often as it is given."""
        numbers = [row.number for row in rows]
        self._valid = self._valid[numbers]
        self._cache.select(torch.tensor(numbers, device=self.device))
        return [row.copy(number) for number, row in enumerate(rows)]

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
        if plan.tree is not None:
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
        embeds = self._decoder.embed(torch.from_numpy(ids).to(self.device))
        if self._used == 0:
            prompts = embeds.new_zeros(len(ids), self._width, embeds.shape[-1])
            for number, prompt in enumerate(self._prompts):
                prompts[number, self._width - len(prompt.embeds) :] = prompt.embeds
            embeds = torch.cat([prompts, embeds], dim=1)
            self._prompts = []
        return self._decoder.forward(
            embeds,
            torch.from_numpy(seen[:, None]).to(self.device),
            torch.from_numpy(positions).to(self.device),
            self._cache,
        )

    def _read(
        self, plans: Sequence[tuple[Row, Plan]], hidden: torch.Tensor, width: int, top: int
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
            if plan.tree is not None:
                edges += [(place(node), token) for node, token in plan.tree.edges]
                wanted = plan.places or [plan.place] * len(plan.tree.best)
                best += [
                    (place(node), own) for node, own in zip(plan.tree.best, wanted, strict=True)
                ]
        flat = hidden.reshape(-1, hidden.shape[-1])
        asked = flat[torch.tensor(list(places), device=self.device)]
        logits = self._decoder.likeliest(asked, edges)
        if edges or [node for node, _ in best] != list(range(len(logits))):
            parts = self._scores(logits.float(), edges, best, top)
        else:
            # A few rows of a large vocabulary at a time stay in a CPU's cache.
            step = _CACHED if logits.device.type == "cpu" else len(logits)
            pieces = [
                self._scores(
                    part.float(),
                    [],
                    [(row, at) for row, (_, at) in enumerate(best[start:][:step])],
                    top,
                )
                for start, part in zip(range(0, len(logits), step), logits.split(step), strict=True)
            ]
            parts = [torch.cat(part) for part in zip(*pieces, strict=True)]
        numbers: list[float] = torch.cat(parts).tolist()
        return _share(plans, numbers, len(edges), len(best) * top, top)

    def _scores(
        self,
        logits: torch.Tensor,
        edges: Sequence[tuple[int, int]],
        best: Sequence[tuple[int, int]],
        top: int,
    ) -> list[torch.Tensor]:
        """Log probabilities of edges, then of the best tokens, then these tokens."""
        total = logits.logsumexp(-1)
        parts = []
        if edges:
            nodes, tokens = torch.tensor(edges, device=self.device).T
            parts.append(logits[nodes, tokens] - total[nodes])
        if best:
            if self._masks is None:
                raise DecodingError("a transcript was asked for without its grammar", "")
            at = [node for node, _ in best]
            if at != list(range(len(logits))):
                nodes = torch.tensor(at, device=self.device)
                logits, total = logits[nodes], total[nodes]
            scores, ids = self._masks.best(logits, [place for _, place in best], top)
            parts += [(scores - total[:, None]).flatten(), ids.flatten().float()]
        return parts


def _share(
    plans: Sequence[tuple[Row, Plan]], numbers: list[float], edges: int, best: int, top: int
) -> list[Results]:
    results = []
    edge, value = 0, edges
    for _, plan in plans:
        own_edges = len(plan.tree.edges) if plan.tree is not None else 0
        own_best = int(plan.after_chain) + (len(plan.tree.best) if plan.tree is not None else 0)
        own = range(value, value + own_best * top)
        scores = [numbers[place] for place in own]
        tokens = [
            int(numbers[place + best]) if math.isfinite(numbers[place]) else -1 for place in own
        ]
        results.append(Results(numbers[edge : edge + own_edges], tokens, scores))
        edge += own_edges
        value += own_best * top
    return results
