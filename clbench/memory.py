"""Stores of past examples: bounded, filled and drawn from without asking the device for a number.

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

    The tensors grow with what is offered, at least twofold, up to the capacity: a capacity beyond all that comes
    costs nothing. They have one scratch row more. Rows that are to be dropped are written there, so that an insert
    has the same shape whatever is kept, and a GPU need not report which rows those are. The scratch row is never
    drawn, counted or saved.

    Attributes:
        capacity: M, the most examples it holds.
        seen: how many examples it has been offered.
        expected: bytes of a row, where they are known before any has come.
    """

    expected = 0

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
        return sum(self.capacity * c[:1].nbytes for c in self._columns.values())

    @property
    def row(self) -> int:
        """Bytes of a row: of one that it holds, or of those that are expected; 0 where nothing tells."""
        return sum(c[:1].nbytes for c in self._columns.values()) or self.expected

    def expect(self, **rows: Tensor) -> None:
        """Tell what rows will be like, by one or more of them in every column."""
        self.expected = sum(values[:1].nbytes for values in rows.values())

    @property
    def place(self) -> tuple[int, ...]:
        """How many rows are filled, and where the columns lie."""
        return len(self), *(column.data_ptr() for column in self._columns.values())

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Up to n examples, uniformly and without replacement; all columns, row for row."""
        chosen = torch.randperm(len(self), generator=generator, device=generator.device)[:n]
        return {name: column.index_select(0, chosen) for name, column in self._columns.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return how many were offered, and the filled rows of every column."""
        return {"seen": self.seen, "columns": {name: self[name] for name in self._columns}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take `state` back; a memory of the same capacity has written it."""
        self.seen = int(state["seen"])
        self._columns = {}
        for name, rows in state["columns"].items():
            self._columns[name] = self._room(rows, len(rows))
            self._columns[name][: len(rows)] = rows

    def to(self, device: torch.device) -> None:
        """Move all columns."""
        self._columns = {name: column.to(device) for name, column in self._columns.items()}

    def _room(self, like: Tensor, rows: int) -> Tensor:
        """Zeros for so many rows, the capacity at most, and the scratch row."""
        return like.new_zeros((min(rows, self.capacity) + 1, *like.shape[1:]))

    def _write(self, slots: Tensor, rows: dict[str, Tensor]) -> None:
        """Rows to their slots; slot `capacity` is the scratch row. No other slot may occur twice."""
        for name, values in rows.items():
            self._columns[name].index_copy_(0, slots, values.detach())

    def _make_room(self, rows: dict[str, Tensor], held: int) -> int:
        """Return how many rows come; there is room for them beside the first `held` ones, up to the capacity."""
        come = len(next(iter(rows.values())))
        wanted = min(held + come, self.capacity)
        for name, values in rows.items():
            column = self._columns.get(name, values[:0].detach())
            if name not in self._columns or len(column) <= wanted:
                self._columns[name] = self._room(values, max(wanted, 2 * len(column)))
                self._columns[name][:held] = column[:held]
        return come


class Archive(Memory):
    """The first `capacity` examples offered, in the order in which they came."""

    def add(self, **rows: Tensor) -> None:
        """Offer examples, one row each in every column, in order."""
        start = len(self)
        n = self._make_room(rows, start)
        self.seen += n
        for name, values in rows.items():
            self._columns[name][start : len(self)] = values[: len(self) - start].detach()


class Chosen(Memory):
    """Rows that are chosen all at once, from outside, and stand in the order given."""

    def keep(self, **rows: Tensor) -> None:
        """Hold these rows and no others."""
        self.seen = self._make_room(rows, 0)
        for name, values in rows.items():
            self._columns[name][: self.seen] = values.detach()

    def clear(self) -> None:
        """Hold nothing."""
        self.seen = 0


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
        n = self._make_room(rows, len(self))
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
    """Return a reservoir whose examples draw from those seen up to themselves, or up to their batch."""
    return Reservoir(capacity) if kind == "example" else BatchReservoir(capacity)
