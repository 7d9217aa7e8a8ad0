"""Replay of a share of every batch, at equal compute.

Ibrahim, Thérien, Gupta et al., "Simple and Scalable Strategies to Continually Pre-train Large Language Models", TMLR
2024, arXiv:2403.08763.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.errors import IncompatibleError
from clbench.memory import Archive
from clbench.parts import CrossEntropy, exact, expect_examples, give_way, nearest
from clbench.ranges import Fraction, Natural, NotNegative

Reading = Literal["learned", "stored"]


class ReplayFraction(Strategy):
    """Rows of earlier experiences take the place of a share x of every batch; they are read in order, once each.

    After R rows of an experience, ⌊x·R + ½⌋ of them were old ones: where x·B is whole, that is x·B in every batch of B
    rows, and what is left over otherwise is carried to later batches. Old rows take the places of a batch's last ones.

    Attributes:
        kept: rows that the memory holds of each experience so far; read: rows that were replayed of each.
        deck: (K,) places in the memory of all rows that the experience replays, in order.
        rows, given: of the experience so far, with old ones; old ones.
    """

    needs = frozenset({"boundaries", "memory"})
    state = ("memory", "kept", "read", "deck", "rows", "given")
    parallel = True
    language = True

    def __init__(
        self, share: float, weights: Sequence[float] | None, order: Reading, capacity: int | None
    ) -> None:
        self.share, self.weights, self.reading, self.capacity = exact(share), weights, order, capacity
        self.kept: list[int] = []
        self.read: list[int] = []
        self.rows = self.given = 0

    def setup(self, run: Run) -> None:
        earlier = len(run.train) - 1
        if self.weights is not None and len(self.weights) != max(earlier, 0):
            raise IncompatibleError(
                f"{run.strategy} has {len(self.weights)} weights for the {earlier} experiences of {run.benchmark.id} "
                "that are followed by another; give one weight each, or none for equal ones (mixture=null)."
            )
        if self.weights and not any(self.weights):
            raise IncompatibleError(
                f"{run.strategy} shares old rows by mixture={list(self.weights)}, which gives none to any experience; "
                "give one a weight, or share=0."
            )
        self.deck = torch.zeros(0, dtype=torch.int64, device=run.device)
        self.limits = self._limits()
        self.memory = Archive(sum(self.limits))
        expect_examples(self.memory, run)

    def _limits(self) -> list[int]:
        """Return how many rows of each experience are kept: all that will be read, or an equal share of a memory."""
        run, stream = self.run, self.run.train
        wanted = [0] * len(stream)
        for exp in stream[1:]:
            weights = self._weights(exp.index)
            for j, weight in enumerate(weights):
                # `in_turn` may exceed a share by half as many rows as there are experiences.
                wanted[j] += math.ceil(self._due(exp) * weight / (sum(weights) or 1)) + len(weights) // 2
        limits = [min(n, len(exp)) for n, exp in zip(wanted, stream, strict=True)]
        granted = run.benchmark.setting.memory if self.capacity is None else self.capacity
        if granted is None:
            return limits
        share, rest = divmod(granted, max(len(stream) - 1, 1))
        return [min(n, share + (j < rest)) for j, n in enumerate(limits)]

    def _weights(self, earlier: int) -> list[float]:
        return [1.0] * earlier if self.weights is None else list(self.weights[:earlier])

    def _due(self, exp: Experience) -> int:
        """Return how many rows an experience replays at most."""
        run = self.run
        return nearest(self.share, run.steps_of(exp) * run.batch_size_of(exp) * run.config.train.updates)

    def begin_experience(self, exp: Experience) -> None:
        deck = in_turn(self._due(exp), self.kept, self._weights(len(self.kept)), self.read)
        self.deck = deck.to(self.run.device)
        self.rows = self.given = 0
        self.kept.append(0)
        self.read.append(0)

    def extend(self, batch: Batch) -> Batch:
        if not len(self.deck):
            return batch
        self.rows += batch.new
        start, self.given = self.given, nearest(self.share, self.rows)
        if start == self.given:
            return batch
        chosen = self.deck[start : self.given]
        x, y, task = (self.memory[name].index_select(0, chosen) for name in ("x", "y", "task"))
        return give_way(batch, self.run.augment(x), y, task, x)

    def after_step(self, batch: Batch, out: Output) -> None:
        if self.reading == "learned" and self.run.epoch == 0:
            self._keep(batch.examples())

    def _keep(self, rows: dict[str, Tensor]) -> None:
        n = min(self.limits[self.run.experience] - self.kept[-1], len(rows["y"]))
        if n > 0:
            self.memory.add(**{name: values[:n] for name, values in rows.items()})
            self.kept[-1] += n

    def end_experience(self, exp: Experience) -> None:
        ends = torch.tensor([*itertools.accumulate(self.kept[:-1])], device=self.deck.device)
        source = torch.bucketize(self.deck[: self.given], ends, right=True)
        for j, n in enumerate(torch.bincount(source, minlength=len(ends)).tolist()):
            self.read[j] += n
        if self.reading == "stored" and self.limits[exp.index]:
            x, y = exp.data.take(torch.arange(self.limits[exp.index]))
            y = y.to(self.run.device)
            self._keep({"x": x.to(self.run.device), "y": y, "task": y.new_full((len(y),), exp.task)})


def in_turn(rows: int, kept: Sequence[int], weights: Sequence[float], read: Sequence[int]) -> Tensor:
    """(rows,) places in a memory that holds `kept` rows of each experience, one after the other.

    The m-th row of experience j, from 0, has its turn at (m + ½) / w_j, so that after any number of rows each has had
    its share to a row; of equal times the earlier experience is first. Each is read in order, from where it was left,
    and from the start after its end. Nothing where nothing is held.

    Args:
        rows: how many.
        kept: of each experience.
        weights: w (j,); without a weight, or without a row, nothing is read.
        read: rows that were read before.
    """
    starts = [0, *itertools.accumulate(kept)]
    held = [j for j, (n, weight) in enumerate(zip(kept, weights, strict=True)) if n and weight]
    if not held:
        return torch.zeros(0, dtype=torch.int64)
    total = sum(weights[j] for j in held)
    times, places = [], []
    for j in held:
        m = torch.arange(math.ceil(rows * weights[j] / total) + len(held))
        times.append((m.double() + 0.5) / weights[j])
        places.append(starts[j] + (read[j] + m) % kept[j])
    return torch.cat(places)[torch.cat(times).sort(stable=True).indices[:rows]]


@register("replay-fraction", family="replay", paper="arXiv:2403.08763", null={"share": 0.0})
def replay_fraction(
    share: Fraction = 0.05,
    mixture: tuple[NotNegative, ...] | None = None,
    order: Reading = "learned",
    memory: Natural | None = None,
) -> Strategy:
    """Compute-equivalent replay: a share of every batch are rows of earlier experiences, in place of new ones.

    Batches keep their size and an experience its steps, so that all runs see equally many rows, or tokens; with a share
    x, x of them are old and the new ones fewer by as many. A batch of B rows holds x·B old ones; if that is no whole
    number, after R rows of an experience ⌊x·R + ½⌋ have been old. Cross-entropy over both together. Any stream will do.
    Earlier experiences are read in order, not shuffled again; later experiences read on where earlier ones stopped.

    The new rows that are left out are the last ones of each batch. As a pass shuffles its rows, that is a random share
    x of every pass, another one in the next pass; where rows come in an order of their own, the gaps are evenly spread.

    Args:
        share: x, of every batch from the second experience on.
        mixture: weights by which the earlier experiences share it, one for each that is followed by another; equal ones
            if none are given.
        order: in which an experience is read: learned, as its rows came in its first pass, without rows that never
            came; or stored, as they lie in the data.
        memory: rows kept, equally many of each experience, the first ones in this order. If none is given, as many as
            the setting grants; all that will be read where it names no number.

    Reference: Ibrahim, Thérien, Gupta et al., "Simple and Scalable Strategies to Continually Pre-train Large Language
    Models", TMLR 2024, arXiv:2403.08763. They replay 1, 5 and 25 %, by the size of the shift.

    Differences from the paper:
        1. Old data are kept in a memory, which counts in what is held; there, they are on disk.
        2. Where a memory holds fewer rows than are read, it is read again from its start.
        3. New rows that give way are spread over the pass; there, the new data are cut at the end.
    """
    replay = ReplayFraction(share, mixture, order, memory) if share else Strategy()
    return chain(replay, CrossEntropy())
