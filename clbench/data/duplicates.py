"""Examples of two streams that are equal byte for byte, whatever rows and files they come from.

A test example that was trained on measures memory, not generalisation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clbench.types import Benchmark, Data, Pool, Stream

CHUNK = 1 << 24
"""Bytes that are compared at a time: pools may be memory maps that do not fit into memory."""


def shared(tested: Stream, taught: Sequence[Stream]) -> tuple[int, int]:
    """How many distinct rows of a stream hold the bytes of an example of other streams, and how many rows it has.

    Inputs are compared as stored, before what domains do to them, and without their labels.
    """
    known = _used(taught)
    found = rows = 0
    for kind, data in _used([tested]).items():
        rows += len(data)
        if kind in known:
            found += _count(data, known[kind])
    return found, rows


def trained_on(benchmark: Benchmark) -> tuple[int, int]:
    """How many test examples are byte-identical to training or validation examples, and how many there are."""
    return shared(
        benchmark.test, [stream for stream in (benchmark.train, benchmark.valid) if stream is not None]
    )


def remarks(benchmark: Benchmark) -> list[str]:
    """What whoever reads a result should know of the data: how they were read, and whether tests were trained on."""
    told = list(benchmark.found)
    found, rows = (0, 0) if benchmark.memorise else trained_on(benchmark)
    if found:
        seen = "training" if benchmark.valid is None else "training or validation"
        told.append(f"{found:,} of {rows:,} test examples are byte-identical to {seen} examples.")
    return told


def _used(streams: Sequence[Stream]) -> dict[tuple[object, ...], Data]:
    """The rows that streams use, each once, by the type and shape of their inputs."""
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
    """How many of some examples are among others: those of equal hashes are compared byte by byte."""
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
