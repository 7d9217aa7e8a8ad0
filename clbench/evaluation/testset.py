"""Test examples of several streams, side by side on the device."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clbench.errors import ConfigError
from clbench.machine.device import free_memory
from clbench.results.columns import SPANS
from clbench.types import IGNORED, Benchmark, Data, Experience, Stream


@dataclass(frozen=True)
class Examples:
    """The examples of one stream: its index, the inputs (n, …) that are evaluated, their labels (n,), or (n, L) of
    language, and task labels (n,); and where an example may have several right labels, the further ones (n, R), −1
    where there is none."""

    stream: int
    x: Tensor
    y: Tensor
    task: Tensor
    also: Tensor | None = None


class Spans(Protocol):
    """A tokenizer that tells of every token how many characters and UTF-8 bytes of text it stands for, (V,) int64; None
    where a token alone does not tell."""

    characters: Tensor | None
    bytes: Tensor | None


class TestSet:
    """S streams, N examples in all, P the size of the largest stream.

    Attributes:
        streams: their indices; x: (N, …) as the forward pass wants them; y, task: (N,) int64, y (N, L) of language.
        starts, totals: (S,) where each stream begins, and its size; of language, its labels that count.
        spans: of language, (2, S) characters and UTF-8 bytes that these labels stand for, 0 where no tokenizer tells;
            else None.
        exposed: (C,) bool, the classes that are answers; None for all.
        prepare: stored inputs (n, …) → those that the network gets, where x holds them as they are stored: images that
            are resized for it would take many times the memory.
        right: (N, 1 + R) all right labels, −1 where there are fewer; None where nothing is ranked.
    """

    __test__ = False  # no test of pytest's

    def __init__(
        self,
        parts: Sequence[Examples],
        dtype: torch.dtype | None,
        channels_last: bool,
        exposed: Tensor | None = None,
        ranked: bool = False,
        prepare: Callable[[Tensor], Tensor] | None = None,
        tokenizer: Spans | None = None,
    ) -> None:
        self.exposed = exposed
        self.prepare = prepare
        self._form = dtype, channels_last
        self.streams = [part.stream for part in parts]
        sizes = torch.tensor([len(part.y) for part in parts])
        self.x = torch.cat([part.x for part in parts])
        if prepare is None:
            self.x = self._formed(self.x)
        self.y = torch.cat([part.y for part in parts])
        self.task = torch.cat([part.task for part in parts])
        self.right = torch.cat(_right(parts)) if ranked else None
        self.totals = sizes.numpy()
        self.starts = np.cumsum(self.totals) - self.totals
        # Sums per stream come from a (S, P) table with one place for every example: exact, in a fixed order,
        # and without a loop over streams.
        self._table = (len(sizes), int(sizes.max()))
        within = torch.cat([torch.arange(int(size)) for size in sizes])
        place = (torch.arange(len(sizes)) * self._table[1]).repeat_interleave(sizes) + within
        self._place = place.to(self.y.device)
        self.spans: npt.NDArray[np.int64] | None = None
        if self.y.ndim > 1:
            counts = self.y != IGNORED  # (N, L)
            self.totals = self._per_stream(counts)
            tables = () if tokenizer is None else (tokenizer.characters, tokenizer.bytes)
            told = [t.to(self.y.device)[self.y.clamp(min=0)] * counts for t in tables if t is not None]
            spans = [self._per_stream(one) for one in told]
            self.spans = np.stack(spans) if spans else np.zeros((2, len(self.totals)), dtype=np.int64)

    def _per_stream(self, counts: Tensor) -> npt.NDArray[np.int64]:
        """(N, L) → (S,) sums over each stream's blocks."""
        found: npt.NDArray[np.int64] = self.sums(counts.sum(1)[None])[0].cpu().numpy()
        return found

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: slice) -> Tensor:
        """Return the inputs (n, …) of some rows as the forward pass wants them."""
        return self.prepared(self.x[rows])

    def prepared(self, x: Tensor) -> Tensor:
        """Return inputs (n, …) of x as the forward pass wants them."""
        return x if self.prepare is None else self._formed(self.prepare(x))

    def _formed(self, x: Tensor) -> Tensor:
        dtype, channels_last = self._form
        if dtype is not None and x.is_floating_point():  # token ids stay integers
            x = x.to(dtype)
        return x.contiguous(memory_format=torch.channels_last) if channels_last and x.ndim == 4 else x

    def parts(self) -> list[Examples]:
        """Return the examples of each stream, as views, to make a set of more streams from."""
        also = None if self.right is None else self.right[:, 1:]
        ends = [*self.starts[1:].tolist(), len(self)]
        spans = [slice(start, end) for start, end in zip(self.starts, ends, strict=True)]
        return [
            Examples(i, self.x[at], self.y[at], self.task[at], None if also is None else also[at])
            for i, at in zip(self.streams, spans, strict=True)
        ]

    def sums(self, values: Tensor) -> Tensor:
        """(K, N) values of every example → (K, S) sums over each stream."""
        table = values.new_zeros((len(values), self._table[0] * self._table[1]))
        return table.index_copy_(1, self._place, values).view(len(values), *self._table).sum(2)

    def by_class(self, right: Tensor, classes: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return how many examples of each class are right (C,), of right (N,), and how many there are (C,)."""
        correct = torch.zeros(classes, dtype=torch.float64, device=right.device)
        correct = correct.index_add_(0, self.y, right).long()
        return correct.cpu().numpy(), torch.bincount(self.y, minlength=classes).cpu().numpy()

    def more(self, counts: npt.NDArray[Any], times: int) -> dict[str, npt.NDArray[Any]]:
        """Return the columns that not every curve has, for so many evaluations: ranks, from counts (4, …, S), and what
        tokens stand for."""
        if self.spans is not None:
            return dict(zip(SPANS, np.tile(self.spans, times), strict=True))
        if len(counts) == 2:
            return {}
        hits, reciprocal = counts[2:].reshape(2, -1)
        return {"hits_at_10": hits.astype(np.int64), "reciprocal_at_10": reciprocal}


def _right(parts: Sequence[Examples]) -> list[Tensor]:
    """Return all right labels of every part, (n, 1 + R) with one R."""
    width = max(0 if part.also is None else part.also.shape[1] for part in parts)
    tables = []
    for part in parts:
        further = part.y.new_full((len(part.y), width), -1)
        if part.also is not None:
            further[:, : part.also.shape[1]] = part.also
        tables.append(torch.cat([part.y[:, None], further], 1))
    return tables


def check_room(examples: int, shape: Sequence[int], device: torch.device) -> None:
    """Refuse test sets that a GPU has no room for, as they lie there whole, in float32, and once more while they are
    put together.

    Raises:
        ConfigError: there is too little free memory.
    """
    if device.type != "cuda":
        return
    need, free = 2 * 4 * examples * math.prod(shape), free_memory(device)
    if need > free:
        size = " × ".join(map(str, shape))
        raise ConfigError(
            f"{examples} test examples of {size} take {need / 1e9:.1f} GB of {device} in float32 while they are put "
            f"together, and {free / 1e9:.1f} GB are free; take smaller images or test sets, put fewer runs on "
            "the GPU, or use --device cpu."
        )


def chosen(data: Data, size: int | None, seed: int, stream: int) -> Data:
    """Return the examples of a test stream that ticks look at, as many as `size` and the same at every tick; None:
    all."""
    if size is None or size >= len(data):
        return data
    rows = drawing("subset", seed, stream).choice(len(data), size, replace=False)
    return data.subset(torch.from_numpy(np.sort(rows)))


def drawing(what: str, seed: int, stream: int) -> np.random.Generator:
    """Return the random stream of one choice among a test stream's examples."""
    digest = hashlib.sha256(f"clbench evaluation {what} {seed} {stream}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def arrivals(exp: Experience, test: Stream) -> list[tuple[int, int]]:
    """Return the row of an ordered experience with which each test stream that it names is seen, and the stream, in
    order.

    It is the one with which the last of the stream's classes, of those that the experience holds, comes first.
    """
    classes, first = np.unique(exp.data.y().numpy(), return_index=True)
    row = dict(zip(classes.tolist(), first.tolist(), strict=True))
    return sorted((max(row[c] for c in test[i].classes if c in row), i) for i in exp.tests)


def present_in(benchmark: Benchmark, trained: Stream, experience: int) -> npt.NDArray[np.bool_] | None:
    """(C,) bool, the classes that an experience has, where one test set of all classes does not tell; else None.

    Args:
        trained: what the run trains on: the stream, or all of it in one, by a bound or where boundaries are not told.
    """
    if not len(benchmark.test) == 1 < len(benchmark.train):
        return None
    at_once = len(trained) == 1 and benchmark.setting.boundaries
    there = np.zeros(benchmark.num_classes, dtype=bool)
    if experience >= 0:
        there[list((trained if at_once else benchmark.train)[experience].classes)] = True
    return there
