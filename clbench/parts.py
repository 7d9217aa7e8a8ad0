"""Parts that more than one strategy is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from clbench.memory import Reservoir
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
        new = batch.stream()
        self.memory.add(self.run.rng("memory"), x=new.raw, y=new.y, task=new.task)


class DarkReplay(Strategy):
    """Two draws from a reservoir, each with its own forward pass: one must keep its logits, one its labels.

    `dark` is α · mean squared difference between stored and present logits, over all columns; `replay` is
    β · cross-entropy (eqs. 5 and 6 of Buzzega et al., arXiv:2004.07211). Stored logits are those of the step in
    which the example came.
    """

    needs = frozenset({"memory"})
    state = ("memory",)

    def __init__(self, capacity: int, draw: int | None, alpha: float, beta: float) -> None:
        self.capacity, self.draw, self.alpha, self.beta = capacity, draw, alpha, beta

    def setup(self, run: Run) -> None:
        self.memory = Reservoir(self.capacity)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        n = min(batch.new if self.draw is None else self.draw, len(self.memory))
        losses: dict[str, Tensor] = {}
        if n == 0:
            return losses
        # A forward pass in training mode moves BatchNorm statistics: a zero coefficient must not make one.
        if self.alpha:
            old, past = self._replay(n)
            losses["dark"] = self.alpha * F.mse_loss(past.logits, old["logits"])
        if self.beta:
            old, past = self._replay(n)
            losses["replay"] = self.beta * F.cross_entropy(past.logits, old["y"])
        return losses

    def _replay(self, n: int) -> tuple[dict[str, Tensor], Output]:
        """A draw of n examples, augmented anew, and what the model says of it now."""
        old = self.memory.draw(n, self.run.rng("replay"))
        return old, self.run.forward(self.run.augment(old["x"]), old["task"])

    def after_step(self, batch: Batch, out: Output) -> None:
        new = batch.stream()
        logits = out.logits[: batch.new]
        self.memory.add(self.run.rng("memory"), x=new.raw, y=new.y, task=new.task, logits=logits)
