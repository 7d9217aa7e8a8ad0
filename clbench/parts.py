"""Parts that more than one strategy is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from clbench.memory import Reservoir
from clbench.rehearsal import lag_weights as lag_weights
from clbench.strategy import Strategy
from clbench.types import Batch, Output

if TYPE_CHECKING:
    from clbench.engine import Run


class CrossEntropy(Strategy):
    """Mean cross-entropy over all rows of the batch, stream and replayed alike: loss `fit`."""

    idempotent = True

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"fit": F.cross_entropy(out.logits, batch.y)}


class Replay(Strategy):
    """Examples drawn from a reservoir join every batch; the stream's examples are offered to it after the step.

    Args:
        capacity: examples the reservoir holds.
        draw: examples that join a batch; as many as the stream brings if None, fewer while there are not so many.
    """

    needs = frozenset({"memory"})
    state = ("memory",)

    def __init__(self, capacity: int, draw: int | None = None) -> None:
        self.capacity, self.draw = capacity, draw

    def setup(self, run: Run) -> None:
        self.memory = Reservoir(self.capacity)

    def extend(self, batch: Batch) -> Batch:
        n = min(batch.new if self.draw is None else self.draw, len(self.memory))
        if n == 0:
            return batch
        old = self.memory.draw(n, self.run.rng("replay"))
        return batch.join(self.run.augment(old["x"]), old["y"], old["task"], old["x"])

    def after_step(self, batch: Batch, out: Output) -> None:
        if self.draw == 0:  # nothing will ever be drawn
            return
        x, y, task = batch.firsts(batch.raw), batch.firsts(batch.y), batch.firsts(batch.task)
        self.memory.add(self.run.rng("memory"), x=x, y=y, task=task)
