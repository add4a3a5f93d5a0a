"""The best allowed tokens: a grammar's masks over the vocabulary, applied to logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


class Masks:
    """The tokens that are allowed in each place of a text.

    Args:
        allowed: bool (places, vocabulary); logits may be wider, as many models pad theirs.
        device: of the logits.
    """

    def __init__(self, allowed: np.ndarray, device: torch.device) -> None:
        self._allowed = allowed
        self._device = device
        self._columns: dict[tuple[int, int], tuple[bool, torch.Tensor]] = {}

    def best(
        self, logits: torch.Tensor, places: Sequence[int], count: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The most likely allowed tokens, the best first.

        Args:
            logits: (rows, vocabulary); what is not allowed may be overwritten.
            places: of each row.
            count: how many tokens of each row.

        Returns:
            Logits and ids, (rows, count) each; logits that are not finite where there are fewer.
        """
        if len(set(places)) == 1:
            return self._best(logits, places[0], count)
        scores = logits.new_empty(len(logits), count)
        tokens = torch.empty(len(logits), count, dtype=torch.long, device=self._device)
        for place in set(places):
            rows = torch.tensor(
                [row for row, own in enumerate(places) if own == place], device=self._device
            )
            scores[rows], tokens[rows] = self._best(logits[rows], place, count)
        return scores, tokens

    def _best(
        self, logits: torch.Tensor, place: int, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        few, columns = self._of(place, logits.shape[1])
        if few:
            scores = logits.index_select(1, columns)
            short = count - scores.shape[1]
            if short > 0:
                scores = torch.nn.functional.pad(scores, (0, short), value=-torch.inf)
                columns = torch.nn.functional.pad(columns, (0, short))
        else:
            scores = logits.index_fill_(1, columns, -torch.inf)
        top = scores.max(-1, keepdim=True) if count == 1 else scores.topk(count)
        return top.values, columns[top.indices] if few else top.indices

    def _of(self, place: int, width: int) -> tuple[bool, torch.Tensor]:
        """Whether few are allowed, and the columns: the allowed ones, else the forbidden ones.

        In nearly every place of a transcript nearly every token is allowed. Overwriting the few
        others is a fraction of what a mask over the whole vocabulary costs.
        """
        key = (place, width)
        if key not in self._columns:
            allowed = np.zeros(width, dtype=bool)
            own = self._allowed[place][:width]
            allowed[: len(own)] = own
            few = bool(allowed.sum() * 2 < width)
            columns = np.flatnonzero(allowed if few else ~allowed)
            self._columns[key] = few, torch.from_numpy(columns).to(self._device)
        return self._columns[key]
