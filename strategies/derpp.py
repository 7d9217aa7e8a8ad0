"""Dark Experience Replay++ (DER++).

Buzzega et al., "Dark Experience for General Continual Learning: a Strong, Simple Baseline", NeurIPS 2020,
arXiv:2004.07211.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Output, Reservoir, Strategy, chain, register
from clbench.parts import CrossEntropy

if TYPE_CHECKING:
    from clbench.engine import Run


class DarkReplay(Strategy):
    """Two draws from a reservoir, each with its own forward pass: one must keep its logits, one its labels.

    `dark` is α · mean squared difference between stored and present logits, over all columns (eq. 5 of the paper);
    `replay` is β · cross-entropy (eq. 6). Stored logits are those of the step in which the example came.
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
        x, y, task = batch.firsts(batch.raw), batch.firsts(batch.y), batch.firsts(batch.task)
        self.memory.add(self.run.rng("memory"), x=x, y=y, task=task, logits=batch.firsts(out.logits))


@register("derpp", paper="arXiv:2004.07211", null={"alpha": 0.0, "beta": 0.0})
def derpp(memory: int = 200, draw: int | None = None, alpha: float = 0.1, beta: float = 0.5) -> Strategy:
    """Dark Experience Replay++: replay with both the labels and the logits that examples once had.

    L = CE(stream) + α · MSE(present logits, stored logits) + β · CE(replayed), with two independent draws.

    Args:
        memory: examples the reservoir holds.
        draw: examples in each of the two draws; as many as the stream brings if none is given.
        alpha: α, weight of the stored logits. beta: β, weight of the stored labels.

    Reference: Buzzega et al., "Dark Experience for General Continual Learning: a Strong, Simple Baseline", NeurIPS
    2020, arXiv:2004.07211. The defaults are the authors' for Split CIFAR-10 with a memory of 200.

    Differences from the paper:
        1. With task labels, the classes of other tasks are masked before the mean over columns is taken, and add zeros
           to it; the authors compare all logits in every setting.
    """
    return chain(CrossEntropy(), DarkReplay(memory, draw, alpha, beta))
