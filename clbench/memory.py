"""Stores of past examples: bounded, allocated once, filled and drawn from without asking the device for a
number.

A memory holds named columns (`x`, `y`, `logits` …), one row per example. It never holds more than `capacity`
rows.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from clbench.errors import ConfigError


class Memory:
    """Columns of `capacity` rows on one device; subclasses decide which rows are kept.

    The tensors have one scratch row more than the capacity. Rows that are to be dropped are written there, so
    that an insert has the same shape whatever is kept, and a GPU need not report which rows those are. The
    scratch row is never drawn, counted or saved.

    Attributes:
        capacity: M, the most examples it holds.
        seen: how many examples it has been offered.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise ConfigError(f"A memory's capacity is 0 or more; {capacity} was given.")
        self.capacity = capacity
        self.seen = 0
        self._columns: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def __getitem__(self, column: str) -> Tensor:
        """(len, …) the filled rows of a column."""
        return self._columns[column][: len(self)]

    @property
    def nbytes(self) -> int:
        """Bytes of the rows it may hold."""
        return sum(c[: self.capacity].numel() * c.element_size() for c in self._columns.values())

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Up to n examples, uniformly and without replacement; all columns, row for row."""
        chosen = torch.randperm(len(self), generator=generator, device=generator.device)[:n]
        return {name: column.index_select(0, chosen) for name, column in self._columns.items()}

    def state_dict(self) -> dict[str, Any]:
        """How many were offered, and the filled rows of every column."""
        return {"seen": self.seen, "columns": {name: self[name] for name in self._columns}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take `state` back; a memory of the same capacity has written it."""
        self.seen = int(state["seen"])
        self._columns = {}
        for name, rows in state["columns"].items():
            self._allocate(name, rows)
            self._columns[name][: len(rows)] = rows

    def to(self, device: torch.device) -> None:
        """Move all columns."""
        self._columns = {name: column.to(device) for name, column in self._columns.items()}

    def _allocate(self, name: str, like: Tensor) -> None:
        self._columns[name] = like.new_zeros((self.capacity + 1, *like.shape[1:]))

    def _write(self, slots: Tensor, rows: dict[str, Tensor]) -> None:
        """Rows to their slots; slot `capacity` is the scratch row. No other slot may occur twice."""
        for name, values in rows.items():
            self._columns[name].index_copy_(0, slots, values.detach())

    def _check(self, rows: dict[str, Tensor]) -> int:
        if not self._columns:
            for name, values in rows.items():
                self._allocate(name, values)
        return len(next(iter(rows.values())))


class Archive(Memory):
    """The first `capacity` examples offered, in the order in which they came."""

    def add(self, **rows: Tensor) -> None:
        """Offer examples, one row each in every column, in order."""
        n = self._check(rows)
        start = len(self)
        self.seen += n
        for name, values in rows.items():
            self._columns[name][start : len(self)] = values[: len(self) - start].detach()


class Chosen(Memory):
    """Rows that are chosen all at once, from outside, and stand in the order given."""

    def keep(self, **rows: Tensor) -> None:
        """Hold these rows and no others."""
        self.seen = self._check(rows)
        for name, values in rows.items():
            self._columns[name][: self.seen] = values.detach()


class Reservoir(Memory):
    """A uniform sample of everything offered so far.

    Example n (from 1) takes slot n while there is room, and afterwards the slot drawn uniformly from 1 … n,
    if there
    is such a slot: each example offered is held with probability M / n (Vitter 1985, algorithm R).
    """

    def add(self, generator: torch.Generator, **rows: Tensor) -> None:
        """Offer examples, one row each in every column, in order.

        Later rows of one call win a slot over earlier ones, as if they were offered one by one.
        """
        n = self._check(rows)
        if self.capacity == 0 or n == 0:
            return
        first = self.seen  # examples offered before
        self.seen += n
        if self.seen <= self.capacity:  # still filling
            for name, values in rows.items():
                self._columns[name][first : self.seen] = values.detach()
            return
        device = generator.device
        position = torch.arange(first, first + n, device=device)  # (n,) examples before each of these
        uniform = torch.rand(n, generator=generator, device=device, dtype=torch.float64)
        drawn = (uniform * self._choices(position, first)).long()
        slot = torch.where(position < self.capacity, position, drawn.clamp_(max=self.capacity))
        # Two rows may draw one slot; the later one keeps it, the other goes to the scratch row.
        row = torch.arange(n, device=device)
        last = torch.full((self.capacity + 1,), -1, device=device).scatter_reduce_(0, slot, row, "amax")
        self._write(torch.where(last[slot] == row, slot, self.capacity), rows)

    def _choices(self, position: Tensor, first: int) -> Tensor:
        """(n,) among how many slots each draws; `first` examples were offered before the call."""
        return position + 1


class BatchReservoir(Reservoir):
    """A reservoir whose examples all draw from 1 … n, with n the examples seen before their batch.

    So do the released implementations of several online methods. Examples of late batches are kept a little more
    often than early ones, and all of the first batch that does not fit take a slot.
    """

    def _choices(self, position: Tensor, first: int) -> Tensor:
        return torch.full_like(position, max(first, self.capacity))


ReservoirKind = Literal["example", "batch"]
"""`Reservoir`, or `BatchReservoir`."""


def reservoir(kind: ReservoirKind, capacity: int) -> Reservoir:
    """A reservoir whose examples draw from those seen up to themselves, or up to their batch."""
    return Reservoir(capacity) if kind == "example" else BatchReservoir(capacity)
