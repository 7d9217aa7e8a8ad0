"""Examples of two streams that are equal byte for byte, whatever rows and files they come from.

A test example that was trained on measures memory, not generalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from clbench.errors import DataError
from clbench.types import Benchmark, Data, Pool, Stream

Duplicates = Literal["note", "refuse"]
"""What becomes of test examples that are byte-identical to training examples: a note in the record, or an error."""

CHUNK = 1 << 24
"""Bytes that are compared at a time: pools may be memory maps that do not fit into memory."""


def shared(tested: Stream, taught: Sequence[Stream]) -> tuple[int, int]:
    """Return how many distinct rows of a stream hold the bytes of an example of other streams, and how many rows it
    has.

    Inputs are compared as stored, before what domains do to them, and without their labels.
    """
    known = _used(taught)
    found = rows = 0
    for kind, data in _used([tested]).items():
        rows += len(data)
        if kind in known:
            found += _count(data, known[kind])
    return found, rows


def trained_on(benchmark: Benchmark) -> str:
    """Return how many test examples are byte-identical to training or validation examples, in a sentence; none if none
    is."""
    if benchmark.memorise:
        return ""
    taught = [stream for stream in (benchmark.train, benchmark.valid) if stream is not None]
    found, rows = shared(benchmark.test, taught)
    kinds = " or ".join("training" if stream is benchmark.train else "validation" for stream in taught)
    return f"{found:,} of {rows:,} test examples are byte-identical to {kinds} examples." if found else ""


def remarks(benchmark: Benchmark) -> list[str]:
    """Return what whoever reads a result should know of the data: how they were read, and whether tests were trained
    on."""
    return [told for told in (*benchmark.found, trained_on(benchmark)) if told]


def checked(benchmark: Benchmark, duplicates: Duplicates) -> Benchmark:
    """Return the benchmark, if its test examples may be among the others, or none is.

    Raises:
        DataError: some are, and that is refused.
    """
    if duplicates == "refuse" and (told := trained_on(benchmark)):
        raise DataError(
            f"{benchmark.name}: {told} Remove them from one side; or allow duplicates='note', and records say so."
        )
    return benchmark


def _used(streams: Sequence[Stream]) -> dict[tuple[object, ...], Data]:
    """Return the rows that streams use, each once, by the type and shape of their inputs."""
    pools: dict[int, tuple[Pool, list[torch.Tensor]]] = {}
    for stream in streams:
        for exp in stream:
            for pool, rows, _ in exp.data.parts:
                pools.setdefault(id(pool), (pool, []))[1].append(rows)
    kinds: dict[tuple[object, ...], Data] = {}
    for pool, used in pools.values():
        kind = (pool.x.dtype, *pool.x.shape[1:])
        data = Data.of(pool, torch.cat(used).unique())
        kinds[kind] = Data.union([kinds[kind], data]) if kind in kinds else data
    return kinds


def _count(data: Data, known: Data) -> int:
    """Return how many of some examples are among others: those of equal hashes are compared byte by byte."""
    ours, theirs = _hashes(data), _hashes(known)
    in_order, place = theirs.sort()
    at = torch.searchsorted(in_order, ours).clamp(max=len(theirs) - 1)
    alike = (in_order[at] == ours).nonzero().squeeze(1)
    partner, found = place[at[alike]], 0
    width = max(1, data.nbytes // len(data))
    for some, others in zip(alike.split(1 + CHUNK // width), partner.split(1 + CHUNK // width), strict=True):
        a, b = (x.flatten(1).view(torch.uint8) for x in (data.take(some)[0], known.take(others)[0]))
        found += int((a == b).all(1).sum())
    return found


def _hashes(data: Data) -> torch.Tensor:
    """(N,) int64"""
    return torch.cat([pool.hashes[rows] for pool, rows, _ in data.parts])
