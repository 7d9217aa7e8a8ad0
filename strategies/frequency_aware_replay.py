"""Replay from a memory in which rare classes have more room.

Hemati et al., "Class-Incremental Learning with Repetition", CoLLAs 2023, arXiv:2301.11396.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.memory import Chosen
from clbench.parts import CrossEntropy, Replay, expect_examples
from clbench.ranges import Natural


class FrequencyAware(Replay):
    """A memory with a uniform sample of each class, whose size falls with how often the class has come.

    Attributes:
        counts: class → experiences that had it. rooms: class → examples that it may hold.
    """

    needs = frozenset({"memory", "boundaries"})
    state = ("memory", "counts", "rooms")
    parallel = True
    language = False

    def setup(self, run: Run) -> None:
        self.memory = Chosen(self.capacity)  # type: ignore[assignment]
        expect_examples(self.memory, run)
        self.counts, self.rooms = [0] * run.num_classes, [0] * run.num_classes

    def after_step(self, batch: Batch, out: Output) -> None:
        """Store nothing yet."""

    def end_experience(self, exp: Experience) -> None:
        if not self.capacity or self.draw == 0:
            return
        rng, device = self.run.rng("memory"), self.run.device
        before = list(self.rooms)
        for c in exp.classes:
            self.counts[c] += 1
        rooms = wanted(self.counts, self.capacity)
        # What a class offers is cut to the room that it had, and then to that which it has now.
        limit = [min(a, b) if a else b for a, b in zip(before, rooms, strict=True)]
        labels = exp.data.y().to(device)
        keys = torch.rand(len(labels), generator=rng, device=device)
        mine = best(keys, labels, limit)
        raw, y = exp.data.take(mine.to("cpu"))
        come = {"x": raw.to(device), "y": y.to(device), "key": keys[mine]}
        come["task"] = torch.full_like(come["y"], exp.task)
        if len(self.memory):
            come = {name: torch.cat([self.memory[name], rows]) for name, rows in come.items()}
        rows = best(come["key"], come["y"], limit)
        held = torch.bincount(come["y"][rows], minlength=self.run.num_classes).tolist()
        gone = surplus(self.counts, held, self.capacity)
        self.rooms = [room - gone.get(c, 0) for c, room in enumerate(rooms)]
        left = [n - gone.get(c, 0) for c, n in enumerate(held)]
        kept = rows[best(come["key"][rows], come["y"][rows], left)]
        self.memory.keep(**{name: column[kept] for name, column in come.items()})  # type: ignore[attr-defined]


def quotas(counts: Sequence[int]) -> dict[int, float]:
    """q_c = (1 / n_c) / Σ (1 / n), of classes that have come n_c times."""
    weights = {c: 1 / n for c, n in enumerate(counts) if n}
    total = sum(weights.values())
    return {c: weight / total for c, weight in weights.items()}


def wanted(counts: Sequence[int], capacity: int) -> list[int]:
    """⌈q_c M⌉ of each class; more than M in all."""
    shares = quotas(counts)
    return [math.ceil(shares.get(c, 0.0) * capacity) for c in range(len(counts))]


def surplus(counts: Sequence[int], held: Sequence[int], capacity: int) -> Mapping[int, int]:
    """How many examples too many each class gives up: ⌈q_c · surplus⌉, the most frequent class first, until none is."""
    extra = left = sum(held) - capacity
    gone: dict[int, int] = {}
    shares = quotas(counts)
    for c in sorted(shares, key=lambda c: shares[c]):
        if left <= 0:
            break
        gone[c] = min(left, math.ceil(shares[c] * extra), held[c])
        left -= gone[c]
    return gone


def best(keys: Tensor, y: Tensor, most: Sequence[int]) -> Tensor:
    """Return, in order, the rows with the largest keys (N,) of each class, `most` of class y (N,) at most."""
    by_key = keys.argsort(descending=True, stable=True)
    order = by_key[y[by_key].argsort(stable=True)]  # by class, the largest key first
    sizes = torch.bincount(y, minlength=len(most))
    rank = torch.arange(len(y), device=y.device) - (sizes.cumsum(0) - sizes)[y[order]]
    rows: Tensor = order[rank < torch.tensor(most, device=y.device)[y[order]]].sort().values
    return rows


@register("frequency-aware-replay", family="replay", paper="arXiv:2301.11396", null={"draw": 0})
def frequency_aware_replay(memory: Natural = 200, draw: Natural | None = None) -> Strategy:
    """Experience replay in which a class that comes seldom has more room: in inverse proportion to how often it came.

    With n_c the experiences that had class c, its quota is q_c = (1/n_c) / Σ (1/n), and it holds ⌈q_c M⌉ examples, a
    uniform sample of those that came. What is more than M in all, classes give up in proportion to their quotas, the
    most frequent ones first.

    Args:
        memory: M, the examples held.
        draw: examples that join a batch; as many as the stream brings if none is given.

    Reference: Hemati et al., "Class-Incremental Learning with Repetition", CoLLAs 2023, arXiv:2301.11396.

    Differences from the authors' code:
        1. Among classes of equal quota, the one of the lowest number gives up first; there, the first of a set.

    As there, the memory changes at an experience's end, and a class whose room grows has nothing to fill it with until
    it comes again.
    """
    return chain(FrequencyAware(memory, draw), CrossEntropy())
