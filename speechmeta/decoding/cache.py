"""A key-value cache that is written in place: the prefix is never copied.

Every pass appends the same number of slots to all rows; which slots a row sees is the
attention mask's matter, so branches that were not taken simply stay unseen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_GROWTH = 32


class SlotLayer(CacheLayerMixin):
    """Keys and values of one decoder layer, (rows, heads, capacity, head width)."""

    is_sliding = False

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.used = 0
        self._stored: tuple[torch.Tensor, torch.Tensor] | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self._stored = (self._empty(key_states), self._empty(value_states))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes new slots behind the used ones and returns views of all used slots."""
        count = key_states.shape[-2]
        end = self.used + count
        if self._stored is None:
            self.capacity = max(end, self.capacity)
            self.lazy_initialization(key_states, value_states)
        elif end > self.capacity:
            self.capacity = max(end, self.capacity + self.capacity // 2) + _GROWTH
            self._keep(lambda used: used)
        keys, values = self._buffers()
        keys[:, :, self.used : end] = key_states
        values[:, :, self.used : end] = value_states
        self.used = end
        return keys[:, :, :end], values[:, :, :end]

    def _buffers(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._stored is None:
            raise RuntimeError("the cache is empty")
        return self._stored

    def _empty(self, like: torch.Tensor) -> torch.Tensor:
        # Not filled: every pass writes its slots in all rows, and those behind are never read.
        return like.new_empty(*like.shape[:2], self.capacity, like.shape[-1])

    def _keep(self, chosen: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Makes the store anew of what is chosen of the used slots."""
        keys, values = (self._copied(chosen(old[:, :, : self.used])) for old in self._buffers())
        self._stored = (keys, values)

    def _copied(self, used: torch.Tensor) -> torch.Tensor:
        new = self._empty(used)
        new[:, :, : self.used] = used
        return new

    def select(self, rows: torch.Tensor) -> None:
        """Keeps some rows."""
        self._keep(lambda used: used.index_select(0, rows))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0

    def get_seq_length(self) -> int:
        return self.used

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """The cache of all layers.

    Args:
        layers: number of decoder layers.
        capacity: slots to begin with; it grows where they do not suffice.
    """

    def __init__(self, layers: int, capacity: int) -> None:
        self._slot_layers = [SlotLayer(capacity + _GROWTH) for _ in range(layers)]
        super().__init__(layers=list(self._slot_layers))

    def select(self, rows: torch.Tensor) -> None:
        """Keeps some rows, in the given order."""
        for layer in self._slot_layers:
            layer.select(rows)
