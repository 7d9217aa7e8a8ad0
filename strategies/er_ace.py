"""Experience replay with an asymmetric cross-entropy (ER-ACE).

Caccia et al., "New Insights on Reducing Abrupt Representation Change in Online Continual Learning", ICLR 2022,
arXiv:2104.05025.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Batch, Output, Run, Strategy, register
from clbench.memory import ReservoirKind
from clbench.parts import CosineHead, CrossEntropy, Rehearsal, linear_weight
from clbench.ranges import Natural, Share
from clbench.types import MASKED

Head = Literal["linear", "cosine"]
Rivals = Literal["batch", "unseen"]


class AsymmetricReplay(Rehearsal):
    """New examples compete only with the classes they came with, replayed ones with every class.

    `new` is the cross-entropy of the stream over the classes present in its batch, `replay` that of a draw from a
    reservoir over all classes. New classes then cannot push the logits of old ones down, which is what makes old
    features jump when they appear.

    Attributes:
        highest: () the highest label that the stream has brought.
    """

    replaces = (CrossEntropy,)  # the labels are learned here
    state = ("memory", "highest")
    parallel = True
    capturable = True

    def __init__(
        self,
        capacity: int,
        draw: int | None,
        alpha: float | None,
        head: Head,
        rivals: Rivals,
        kind: ReservoirKind,
    ) -> None:
        super().__init__(capacity, draw, kind)
        self.head, self.rivals = head, rivals
        self.weights = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)

    def wrap(self, model: nn.Module) -> nn.Module:
        if self.head == "cosine":
            before = linear_weight(model, self)
            head = CosineHead(before, temperature=0.1, eps=1e-5)
            model.head = head.requires_grad_(before.requires_grad)  # what is frozen stays so
        return model

    def setup(self, run: Run) -> None:
        run.foresee_draw(self.capacity, self.draw)
        super().setup(run)
        self.highest = torch.zeros((), dtype=torch.int64, device=run.device)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        new, replay = self.weights
        above = torch.maximum(self.highest, batch.y.max()) if self.rivals == "unseen" else None
        losses = {"new": new * within_batch(out.logits, batch.y, above)}
        if n := self.due(batch):
            old, past = self.replayed(n)
            losses["replay"] = replay * F.cross_entropy(past.logits, old["y"])
        return losses

    def after_step(self, batch: Batch, out: Output) -> None:
        if self.rivals == "unseen":
            self.highest.copy_(torch.maximum(self.highest, batch.y.max()))
        self.memory.add(self.run.rng("memory"), **batch.examples())


def within_batch(logits: Tensor, y: Tensor, above: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of logits (B, C) over the classes among the labels y (B,), the others left out.

    With `above` (), a label, classes from it on take part, too.
    """
    present = torch.zeros(logits.shape[1], dtype=torch.bool, device=y.device).index_fill_(0, y, True)
    if above is not None:
        present = present | (torch.arange(logits.shape[1], device=y.device) >= above)
    return F.cross_entropy(logits.masked_fill(~present, MASKED), y)


@register("er-ace", family="replay", paper="arXiv:2104.05025")
def er_ace(
    memory: Natural = 200,
    draw: Natural | None = None,
    alpha: Share | None = None,
    head: Head = "linear",
    rivals: Rivals = "batch",
    fill: Literal["example", "batch"] = "example",
) -> Strategy:
    """Replay in which new examples compete only with the classes they came with, replayed ones with all.

    L = CE(stream, over the classes of its batch) + CE(replayed, over all classes), in two forward passes.

    Args:
        memory: examples the reservoir holds.
        draw: replayed examples; as many as the stream brings if none is given.
        alpha: weighs the two terms with α and 1 − α, as Soutif-Cormerais et al. (2023, arXiv:2308.10328) do; both
            with 1, as in the paper, if none is given.
        head: linear; or, as in the authors' code, 10 · cos(features, weights), without bias.
        rivals: what new examples compete with: the classes of their batch; or, as in the authors' code, also all from
            the highest label on that the stream has brought.
        fill: which slots of the reservoir an example may take: as many as there were examples up to itself, or up to
            its batch, as in the authors' code, which keeps late examples a little more often.

    Reference: Caccia et al., "New Insights on Reducing Abrupt Representation Change in Online Continual Learning",
    ICLR 2022, arXiv:2104.05025.

    Differences from the paper:
        1. Replayed examples compete with all classes of the stream, not only with those seen so far: the head has all
           outputs, and who comes next is not told. The authors' code does the same.
        2. New examples compete with their batch's classes alone, from the first experience on. In the authors' last
           code they compete with classes never seen, too, if labels come in ascending order (`rivals=unseen`); in
           earlier ones, with all classes in the first experience.
        3. The head is linear; in the authors' code it is cosine, with scale 10 (`head=cosine`).
        4. The reservoir is exact (`fill`).
    """
    return AsymmetricReplay(memory, draw, alpha, head, rivals, fill)
