"""Experience replay with an asymmetric cross-entropy (ER-ACE).

Caccia et al., "New Insights on Reducing Abrupt Representation Change in Online Continual Learning", ICLR 2022,
arXiv:2104.05025.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Output, Reservoir, Strategy, register
from clbench.parts import CrossEntropy
from clbench.ranges import Natural, Share
from clbench.types import MASKED

if TYPE_CHECKING:
    from clbench.engine import Run


class AsymmetricReplay(Strategy):
    """New examples compete only with the classes they came with, replayed ones with every class.

    `new` is the cross-entropy of the stream over the classes present in its batch, `replay` that of a draw from a
    reservoir over all classes. New classes then cannot push the logits of old ones down, which is what makes old
    features jump when they appear.
    """

    replaces = (CrossEntropy,)  # the labels are learned here
    needs = frozenset({"memory"})
    state = ("memory",)
    parallel = True
    capturable = True

    def __init__(self, capacity: int, draw: int | None, alpha: float | None) -> None:
        self.capacity, self.draw = capacity, draw
        self.weights = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)

    def setup(self, run: Run) -> None:
        run.foresee_draw(self.capacity, self.draw)
        self.memory = Reservoir(self.capacity)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        new, replay = self.weights
        losses = {"new": new * within_batch(out.logits, batch.y)}
        n = min(batch.new if self.draw is None else self.draw, len(self.memory))
        if n:
            old = self.memory.draw(n, self.run.rng("replay"))
            past = self.run.forward(self.run.augment(old["x"]), old["task"])
            losses["replay"] = replay * F.cross_entropy(past.logits, old["y"])
        return losses

    def after_step(self, batch: Batch, out: Output) -> None:
        self.memory.add(self.run.rng("memory"), **batch.examples())


def within_batch(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, C) over the classes among the labels y (B,), the others left out."""
    present = torch.zeros(logits.shape[1], dtype=torch.bool, device=y.device).index_fill_(0, y, True)
    return F.cross_entropy(logits.masked_fill(~present, MASKED), y)


@register("er-ace", paper="arXiv:2104.05025")
def er_ace(memory: Natural = 200, draw: Natural | None = None, alpha: Share | None = None) -> Strategy:
    """Replay in which new examples compete only with the classes they came with, replayed ones with all.

    L = CE(stream, over the classes of its batch) + CE(replayed, over all classes), in two forward passes.

    Args:
        memory: examples the reservoir holds.
        draw: replayed examples; as many as the stream brings if none is given.
        alpha: weighs the two terms with α and 1 − α, as Soutif-Cormerais et al. (2023, arXiv:2308.10328) do; both
            with 1, as in the paper, if none is given.

    Reference: Caccia et al., "New Insights on Reducing Abrupt Representation Change in Online Continual Learning",
    ICLR 2022, arXiv:2104.05025.

    Differences from the paper:
        1. Replayed examples compete with all classes of the stream, not only with those seen so far: the head has all
           outputs, and who comes next is not told. The authors' code does the same.
        2. New examples compete with their batch's classes from the first experience on. The authors' code lets them
           compete with classes never seen as well, and with all classes in the first experience; without boundaries
           there is no first experience.
    """
    return AsymmetricReplay(memory, draw, alpha)
