"""A cache of keys and values that grows in place, and that can be packed again when rows have ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

SPARE_COLUMNS = 64
"""How many further tokens a buffer has room for when it is allocated again."""


def empty_cache() -> Any:
    """A cache without tokens, whose layers are made when the model first runs with it."""
    return Cache(layer_class_to_replicate=_GrowingLayer)


def packed_cache(parts: Sequence[tuple[Any, Sequence[int]]], width: int) -> Any:
    """One cache with the given rows of several caches, each part being (cache, rows to keep).

    Rows are right-aligned in `width` columns. Columns before a short row stay zero: the attention mask hides them.
    """
    packed = empty_cache()
    kept = [rows for _, rows in parts]
    for layers in zip(*(cache.layers for cache, _ in parts), strict=True):
        layer = _GrowingLayer()
        layer.adopt(
            _packed_tensor([layer.keys for layer in layers], kept, width),
            _packed_tensor([layer.values for layer in layers], kept, width),
            width,
        )
        packed.layers.append(layer)
    return packed


def _packed_tensor(tensors: Sequence[torch.Tensor], kept: Sequence[Sequence[int]], width: int) -> torch.Tensor:
    """(rows, heads, width + spare columns, head size)."""
    _, heads, _, size = tensors[0].shape
    packed = tensors[0].new_zeros(sum(map(len, kept)), heads, width + SPARE_COLUMNS, size)
    start = 0
    for tensor, rows in zip(tensors, kept, strict=True):
        columns = min(tensor.shape[2], width)
        packed[start : start + len(rows), :, width - columns : width] = tensor[list(rows), :, -columns:]
        start += len(rows)
    return packed


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """One layer's keys and values in a buffer with spare room. The library's own layer copies all of them every step."""

    def adopt(self, keys: torch.Tensor, values: torch.Tensor, columns: int) -> None:
        """Take these buffers, of which the first `columns` are in use."""
        self.lazy_initialization(keys, values)
        self._key_buffer, self._value_buffer = keys, values
        self.keys, self.values = keys[:, :, :columns], values[:, :, :columns]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of the newest tokens; returns all keys and all values so far."""
        if not self.is_initialized:
            self.adopt(key_states, value_states, key_states.shape[2])
        else:
            used = _filled(self.keys).shape[2]
            self._key_buffer = _appended(self._key_buffer, key_states, used)
            self._value_buffer = _appended(self._value_buffer, value_states, used)
            columns = used + key_states.shape[2]
            self.keys, self.values = self._key_buffer[:, :, :columns], self._value_buffer[:, :, :columns]
        return _filled(self.keys), _filled(self.values)


def _filled(states: torch.Tensor | None) -> torch.Tensor:
    assert states is not None, "the layer has been given states"
    return states


def _appended(buffer: torch.Tensor, states: torch.Tensor, used: int) -> torch.Tensor:
    """The buffer with `states` written after its first `used` columns; a larger copy when there is no room."""
    columns = used + states.shape[2]
    if buffer.shape[2] < columns:
        rows, heads, _, size = buffer.shape
        larger = buffer.new_empty(rows, heads, columns + SPARE_COLUMNS, size)
        larger[:, :, :used] = buffer[:, :, :used]
        buffer = larger
    buffer[:, :, used:columns] = states
    return buffer
