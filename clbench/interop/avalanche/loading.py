"""Avalanche's mini-batches by clbench's gather: the same rows in the same order, at once rather than one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from clbench.engine.loading import Feed
from clbench.interop.avalanche.benchmarks import rows_of
from clbench.strategy import Run
from clbench.types import Data


class Store:
    """All examples of the training stream, by row; on the device where they fit."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.data = Data.union([exp.data for exp in run.train])
        self.feed = Feed(self.data, run.device, run.execution)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the examples at `rows` (B,), on the CPU: inputs (B, …) as stored and labels (B,), on the device."""
        if not self.feed.resident:
            x, y = self.data.take(rows)
            return x.to(self.run.device), y.to(self.run.device)
        return next(self.feed.batches([rows.to(self.run.device)], [rows]))


class Gathered:
    """A loader of Avalanche's that still draws which examples a batch holds, while they are gathered here.

    Its own samplers run, inside its own torch `DataLoader`, over numbers in place of examples: the global generator
    is drawn from as often and in the same order as without.

    Args:
        loader: a `MultiDatasetDataLoader` of Avalanche's.
        rows: for each of its data sets, the rows of its examples.
        present: first row of the present experience, and first one after it.

    Attributes:
        new: how many examples of the last batch are of the present experience.
    """

    def __init__(
        self, loader: Any, rows: Sequence[Sequence[int]], store: Store, present: tuple[int, int]
    ) -> None:
        self.loader, self.store, self.present = loader, store, present
        self.rows = torch.tensor([row for part in rows for row in part])  # (N,)
        labels = [[int(t) for t in data.targets_task_labels.data] for data in loader.datasets]
        self.tasks = torch.tensor([t for part in labels for t in part])  # (N,)
        self.new = 0
        loader._make_pytorch_loader = lambda datasets, sampler: DataLoader(
            _Numbers(), batch_sampler=sampler, collate_fn=torch.tensor
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[Tensor]]:
        run, (first, end) = self.store.run, self.present
        for index in self.loader:
            rows = self.rows[index]
            self.new = int(((rows >= first) & (rows < end)).sum())  # on the CPU
            raw, y = self.store.take(rows)
            yield [run.augment(raw), y, self.tasks[index].to(run.device)]


class _Numbers(Dataset[int]):
    """A data set whose examples are their own numbers."""

    def __getitem__(self, index: int) -> int:
        return index

    def __getitems__(self, indices: list[int]) -> list[int]:
        return indices


def gathered(loader: Any, store: Store, present: tuple[int, int]) -> Gathered | None:
    """Return a loader's batches gathered here; None where that would not be exact, as it holds other examples than the
    stream's, or is of a kind that we do not know."""
    if not hasattr(loader, "_make_pytorch_loader"):
        return None
    rows = [rows_of(data) for data in loader.datasets]
    known = [part for part in rows if part is not None]
    if len(known) < len(rows) or any(_more_than_examples(data) for data in loader.datasets):
        return None
    return Gathered(loader, known, store, present)


def _more_than_examples(data: Any) -> bool:
    """Whether a batch of this data holds more than inputs, labels and task labels, or unaugmented inputs."""
    shown = {a.name for a in data._data_attributes.values() if a.use_in_getitem}
    return bool(shown - {"targets_task_labels"}) or data._flat_data._transform_groups.current_group != "train"
