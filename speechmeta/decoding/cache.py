"""A key-value cache that is written in place: the prefix is never copied.

Every pass appends the same number of slots to all rows; which slots a row sees is the
attention mask's matter, so branches that were not taken simply stay unseen.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_GROWTH = 128


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one decoder layer, (rows, heads, capacity, head width)."""

    is_sliding = False

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.used = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        rows, heads, _, width = key_states.shape
        self.keys = key_states.new_empty(rows, heads, self.capacity, width)
        self.values = value_states.new_empty(rows, heads, self.capacity, value_states.shape[-1])
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes new slots behind the used ones and returns views of all used slots."""
        count = key_states.shape[-2]
        end = self.used + count
        if end > self.capacity:
            self.capacity = max(end, self.capacity + self.capacity // 2) + _GROWTH
            if self.is_initialized:
                self.keys, self.values = self._wider(self.keys), self._wider(self.values)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _wider(self, old: torch.Tensor) -> torch.Tensor:
        rows, heads, _, width = old.shape
        new = old.new_empty(rows, heads, self.capacity, width)
        new[:, :, : self.used] = old[:, :, : self.used]
        return new

    def select(self, rows: torch.Tensor) -> None:
        """Keeps some rows."""
        self.keys = self.keys.index_select(0, rows)
        self.values = self.values.index_select(0, rows)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0

    def get_seq_length(self) -> int:
        return self.used

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):  # type: ignore[misc]
    """The cache of all layers.

    Args:
        layers: number of decoder layers.
        capacity: slots to begin with; it grows where they do not suffice.
    """

    def __init__(self, layers: int, capacity: int) -> None:
        super().__init__(layers=[SlotLayer(capacity + _GROWTH) for _ in range(layers)])

    def select(self, rows: torch.Tensor) -> None:
        """Keeps some rows, in the given order."""
        for layer in self.layers:
            layer.select(rows)
