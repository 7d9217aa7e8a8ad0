"""From an experience's data to raw batches on the device.

Data that fits lies on the device as a whole and a batch is one gather. Data that does not is gathered by
worker processes that run ahead. Both yield the same batches in the same order, to the bit.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from clbench.config import Execution, cores
from clbench.errors import LoaderError
from clbench.machine.device import free_memory
from clbench.machine.processes import starting
from clbench.types import Data

RESIDENT_SHARE = 0.25
"""Share of the device's free memory that the data of one experience may take to lie there as a whole."""
RESIDENT_BYTES_CPU = 4 << 30


class Feed:
    """Raw batches of one experience, by row numbers.

    It has to go when its experience is over, and not with what Python collects some time: a loader that is collected
    waits five seconds for each of its workers.
    """

    def __init__(self, data: Data, device: torch.device, execution: Execution) -> None:
        self.data, self.device, self.execution = data, device, execution
        self.resident = execution.resident == "always" or (
            execution.resident == "auto" and data.nbytes <= _room(device)
        )
        if self.resident:
            self._x, self._y = data.x().to(device), data.y().to(device)
        else:
            self._pass = _Pass()
            self._loader: DataLoader[tuple[Tensor, Tensor]] | None = None

    def batches(self, rows: Sequence[Tensor], rows_cpu: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each element (n,) of `rows`, int64 on the device: raw inputs (n, …) and labels (n,) there.

        `rows_cpu` holds the same numbers on the CPU, for the workers of data that is not resident.
        """
        if self.resident:
            for index in rows:
                yield self._x.index_select(0, index), self._y.index_select(0, index)
            return
        self._pass.rows = [index.tolist() for index in rows_cpu]
        if self._loader is None:  # whose workers stay for all passes
            self._loader = self._new_loader()
        pin = self._loader.pin_memory
        with _watching():
            with (
                starting(self.data, preload=[__name__])
                if self._loader.num_workers
                else contextlib.nullcontext()
            ):
                batches = iter(self._loader)
            for x, y in batches:
                yield x.to(self.device, non_blocking=pin), y.to(self.device, non_blocking=pin)

    def _new_loader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        workers = min(self.execution.workers, cores())
        return DataLoader(
            _Rows(self.data),
            sampler=self._pass,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=self.execution.prefetch if workers else None,
            persistent_workers=workers > 0,
            pin_memory=self.device.type == "cuda",
            multiprocessing_context="forkserver" if workers else None,
            worker_init_fn=_apart if workers else None,
            generator=torch.Generator(),  # its base seed must not come from the global generator
        )


@contextlib.contextmanager
def _watching() -> Iterator[None]:
    """Say in a sentence that a worker has ended."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise LoaderError(
            f"A process that gathers batches has ended ({error}); what it said before stands above, and a lack of "
            "memory says nothing. `clbench resume` continues the run from its last checkpoint; with "
            "workers=0 the run gathers batches itself."
        ) from error


def _apart(worker: int) -> None:
    """Leave the run's group of processes, to which terminals and batch systems send signals: the run decides.

    They are not ignored, as Python ends such a process by one.
    """
    os.setpgid(0, 0)


class _Pass(Sampler[list[int]]):
    """The row numbers of the batches of one pass, in order."""

    rows: Sequence[list[int]] = ()

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class _Rows(Dataset[tuple[Tensor, Tensor]]):
    """Whole batches by their row numbers."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __getitem__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        return self.data.take(torch.tensor(rows, dtype=torch.int64))


def _room(device: torch.device) -> float:
    if device.type == "cuda":
        return RESIDENT_SHARE * free_memory(device)
    return RESIDENT_BYTES_CPU
