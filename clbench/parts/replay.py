"""Replay: stored examples that join batches, or have forward passes of their own."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.memory import Archive, Memory, ReservoirKind, reservoir
from clbench.strategy import Run, Strategy
from clbench.types import Batch, Experience, Output


def expect_examples(memory: Memory, run: Run, **more: Tensor) -> None:
    """Tell a memory how large the stream's examples are, so that a budget is checked before any comes.

    Args:
        memory: of the columns of `Batch.examples`.
        run: whose stream it is.
        more: a row or more of each other column.
    """
    first = run.train[0].data
    x, y = first.take(torch.arange(min(1, len(first))))
    memory.expect(x=x, y=y, task=torch.zeros(len(y), dtype=torch.int64), **more)


def give_way(batch: Batch, x: Tensor, y: Tensor, task: Tensor, raw: Tensor) -> Batch:
    """Return the batch with other rows in place of the stream's last ones, so that it keeps its size.

    Args:
        batch: the batch.
        x, y, task, raw: as for `Batch.join`; not more rows than the stream brings.
    """
    kept = batch.new - len(y)
    device = batch.y.device
    rows = torch.cat([torch.arange(kept, device=device), torch.arange(batch.new, len(batch), device=device)])
    names = ("x", "y", "task", "raw", "index", "view")
    columns = {name: getattr(batch, name).index_select(0, rows) for name in names}
    first = None if batch.first is None else batch.first[batch.first < kept]
    return Batch(**columns, new=kept, first=first).join(x, y, task, raw)


def exact(share: float) -> Fraction:
    """Return a share as it is written: 0.29 of 100 rows are 29, and binary numbers say 28.999…"""
    return Fraction(str(share))


def nearest(share: Fraction, rows: int) -> int:
    """⌊share · rows + ½⌋."""
    return int(share * rows + Fraction(1, 2))


class Rehearsal(Strategy):
    """A reservoir, to which the stream's examples are offered after every step; subclasses say what is drawn for.

    Args:
        capacity: examples the reservoir holds.
        draw: examples in a draw; as many as the stream brings if None, fewer while there are not so many.
        kind: which slots of the reservoir an example may take.
    """

    needs = frozenset({"memory"})
    state: ClassVar[tuple[str, ...]] = ("memory",)

    def __init__(self, capacity: int, draw: int | None = None, kind: ReservoirKind = "example") -> None:
        self.capacity, self.draw, self.kind = capacity, draw, kind

    def setup(self, run: Run) -> None:
        self.memory = reservoir(self.kind, self.capacity)
        if self.draw != 0:
            expect_examples(self.memory, run)

    def due(self, batch: Batch) -> int:
        """Return how many examples are drawn for a batch."""
        return min(batch.new if self.draw is None else self.draw, len(self.memory))

    def replayed(self, n: int) -> tuple[dict[str, Tensor], Output]:
        """Return a draw of n examples, augmented anew, and what the model says of it now."""
        old = self.memory.draw(n, self.run.rng("replay"))
        return old, self.run.forward(self.run.augment(old["x"]), old["task"])

    def after_step(self, batch: Batch, out: Output) -> None:
        if self.draw != 0:  # else nothing will ever be drawn
            self.memory.add(self.run.rng("memory"), **batch.examples())


class Replay(Rehearsal):
    """Examples drawn from a reservoir join every batch."""

    parallel = True
    language = True

    def extend(self, batch: Batch) -> Batch:
        n = self.due(batch)
        if n == 0:
            return batch
        old = self.memory.draw(n, self.run.rng("replay"))
        return batch.join(self.run.augment(old["x"]), old["y"], old["task"], old["x"])


class DarkReplay(Rehearsal):
    """Two draws from a reservoir, each with its own forward pass: one must keep its logits, one its labels.

    `dark` is α · mean squared difference between stored and present logits, over all columns; `replay` is
    β · cross-entropy (eqs. 5 and 6 of Buzzega et al., arXiv:2004.07211). Stored logits are those of the step in
    which the example came.
    """

    parallel = True
    capturable = True

    def __init__(self, capacity: int, draw: int | None, alpha: float, beta: float) -> None:
        super().__init__(capacity, draw)
        self.alpha, self.beta = alpha, beta

    def setup(self, run: Run) -> None:
        if self.alpha or self.beta:
            run.foresee_draw(self.capacity, self.draw)
        super().setup(run)
        expect_examples(self.memory, run, logits=torch.empty(1, run.num_classes))

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        n, losses = self.due(batch), dict[str, Tensor]()
        if n == 0:
            return losses
        # A forward pass in training mode moves BatchNorm statistics: a zero coefficient must not make one.
        if self.alpha:
            old, past = self.replayed(n)
            losses["dark"] = self.alpha * F.mse_loss(past.logits, old["logits"])
        if self.beta:
            old, past = self.replayed(n)
            losses["replay"] = self.beta * F.cross_entropy(past.logits, old["y"])
        return losses

    def after_step(self, batch: Batch, out: Output) -> None:
        self.memory.add(self.run.rng("memory"), **batch.examples(), logits=batch.firsts(out.logits))


class Episodes(Strategy):
    """Keeps examples of every experience for later ones, chosen when it ends: an equal share of the memory each.

    What the number of experiences leaves over goes to the first ones, one example each; so does a memory of fewer
    examples than experiences, and the others are then not held. With `first`, the share is the experience's first
    examples; otherwise they are drawn at random.
    """

    needs = frozenset({"boundaries", "memory"})
    state = ("memory", "counts")
    parallel = True
    language = True

    def __init__(self, capacity: int, first: bool = False) -> None:
        self.capacity, self.first = capacity, first
        self.counts: list[int] = []  # rows of each experience so far, in order

    def setup(self, run: Run) -> None:
        self.memory = Archive(self.capacity)
        expect_examples(self.memory, run)

    def end_experience(self, exp: Experience) -> None:
        share, rest = divmod(self.capacity, len(self.run.train))
        n = min(share + (exp.index < rest), len(exp))
        self.counts.append(n)
        if n == 0:
            return
        rng = self.run.rng("episodes")
        chosen = (
            torch.arange(n) if self.first else torch.randperm(len(exp), generator=rng, device=rng.device)[:n]
        )
        x, y = exp.data.take(chosen.to("cpu"))
        y = y.to(self.run.device)
        task = torch.full((n,), exp.task, device=y.device)
        self.memory.add(x=x.to(self.run.device), y=y, task=task)

    def by_experience(self) -> list[dict[str, Tensor]]:
        """Return the rows of each experience of which there are any."""
        if not len(self.memory):
            return []
        columns = {name: self.memory[name].split(self.counts) for name in ("x", "y", "task")}
        return [{name: rows[k] for name, rows in columns.items()} for k, n in enumerate(self.counts) if n]
