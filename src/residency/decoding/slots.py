"""Keys and values of many answers in memory that is allotted once; each answer has a slot and a length of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

MORE = 32  # columns


@dataclass
class _Target:
    """Where the keys of the next forward pass go, and how much of a slot it sees; the same for all layers."""

    first: int = 0  # slots first:last
    last: int = 0
    start: int = 0  # the column of the first new key, where all slots have the same
    width: int = 0  # columns that are looked at
    columns: torch.Tensor | None = None  # [slots], where each slot has its own and gets one key
    slots: torch.Tensor | None = None  # [slots], 0, 1, 2 ...


class _Layer(CacheLayerMixin):
    """One layer's keys and values [slots, heads, columns, size]."""

    is_sliding = False  # all columns are kept; a window is the mask's business

    def __init__(self, target: _Target, slots: int, columns: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.target, self.slots, self.columns = target, slots, columns
        self.clean = 0  # columns that have been zeroed
        self.shared: tuple[torch.Tensor, torch.Tensor] | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys, self.values = (
            new.new_empty(self.slots, new.shape[1], self.columns, new.shape[3]) for new in (key_states, value_states)
        )
        self.is_initialized = True

    def reach(self, width: int) -> None:
        """Zero the columns up to `width`: what is masked must still be a number. A few more at a time than are needed.

        Columns that no answer reaches are left alone, so that a processor never takes their pages from the system.
        """
        if width > self.clean:
            assert self.keys is not None and self.values is not None
            new = slice(self.clean, width + MORE)
            self.keys[:, :, new], self.values[:, :, new], self.clean = 0, 0, width + MORE

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the new keys and values [slots, heads, new, size] in their places; all that these slots now hold."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        target, own = self.target, slice(self.target.first, self.target.last)
        self.reach(target.width)
        if target.columns is not None:
            self.keys[target.slots, :, target.columns] = key_states[:, :, 0]
            self.values[target.slots, :, target.columns] = value_states[:, :, 0]
        else:
            new = slice(target.start, target.width)
            self.keys[own, :, new], self.values[own, :, new] = key_states, value_states
            if not target.start:
                return key_states, value_states
        return self.keys[own, :, : target.width], self.values[own, :, : target.width]

    def get_seq_length(self) -> int:
        return self.target.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.target.start + query_length, 0

    def get_max_length(self) -> int:
        return self.columns

    get_max_cache_shape = get_max_length  # its name in earlier versions


class Slots(Cache):
    """A cache of transformers that is told before each forward pass where its keys go."""

    def __init__(self, layers: int, slots: int, columns: int) -> None:
        self.target = _Target()
        self.held: list[Any] = [_Layer(self.target, slots, columns) for _ in range(layers)]
        super().__init__(layers=self.held)

    def fill(self, first: int, last: int, start: int, new: int) -> None:
        """The next pass puts `new` keys into each of the slots first:last, from column `start` on."""
        self.target.first, self.target.last, self.target.columns = first, last, None
        self.target.start, self.target.width = start, start + new

    def step(self, lengths: torch.Tensor, width: int) -> None:
        """The next pass puts one key into each of the first slots, at the column that `lengths` [slots] says."""
        self.target.first, self.target.last, self.target.columns = 0, len(lengths), lengths
        self.target.slots = torch.arange(len(lengths), device=lengths.device)
        self.target.start, self.target.width = width - 1, width

    def keep_shared(self, length: int) -> None:
        """Remember what slot 0 holds in its first columns: all answers begin with it."""
        for layer in self.held:
            layer.shared = (layer.keys[:1, :, :length].clone(), layer.values[:1, :, :length].clone())

    def put_shared(self, first: int, last: int) -> None:
        """Begin the slots first:last with what is shared."""
        for layer in self.held:
            keys, values = layer.shared
            layer.keys[first:last, :, : keys.shape[2]] = keys
            layer.values[first:last, :, : keys.shape[2]] = values

    def move(self, source: int, slot: int, length: int) -> None:
        """Copy the first columns of one slot to another."""
        for layer in self.held:
            layer.keys[slot, :, :length] = layer.keys[source, :, :length]
            layer.values[slot, :, :length] = layer.values[source, :, :length]

    def wipe(self, slot: int) -> None:
        """Zero all that a slot holds."""
        for layer in self.held:
            if layer.is_initialized:
                layer.keys[slot, :, : layer.clean] = 0
                layer.values[slot, :, : layer.clean] = 0
