"""L2 towards earlier weights.

Smith, Tian, Halbe, Hsu, Kira, "A Closer Look at Rehearsal-Free Continual Learning", CVPR-W 2023, arXiv:2203.17269.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.parts import CrossEntropy, Group, head_rows, members_of, quadratic_penalty
from clbench.ranges import NotNegative


class HoldWeights(Strategy):
    """A quadratic penalty holds weights near their values at the end of the last experience: L2.

    `l2` is ε · Σ_j (θ_j − θ*_j)². Rows of the head that belong to classes not learned yet are left free: an anchor
    would hold them near random numbers.

    Args:
        strength: ε. parameters: which are held.
        from_start: whether the initial weights are the first experience's anchor.
    """

    needs = frozenset({"boundaries"})
    state = ("anchor", "learned")
    parallel = True
    capturable = True
    language = True

    def __init__(self, strength: float, parameters: Group, from_start: bool) -> None:
        self.strength, self.parameters, self.from_start = strength, parameters, from_start
        self.anchor: dict[str, Tensor] = {}

    def setup(self, run: Run) -> None:
        self.learned = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)  # (C,)
        members_of(self.parameters, run.parameters())  # refused now rather than at the first end
        if self.from_start:
            self._anchor()

    def held(self) -> Sequence[dict[str, Tensor]]:
        """Return the one anchor there is."""
        return [self.anchor]

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if not self.anchor or self.strength == 0:
            return {}
        one = torch.ones((), device=self.run.device)
        rows = {name: head_rows(name, anchor, self.learned) for name, anchor in self.anchor.items()}
        # 1, but for the rows of the head 0 until their class was learned.
        weights = {name: one if learned is None else learned.to(one.dtype) for name, learned in rows.items()}
        return {"l2": self.strength * quadratic_penalty(self.run.parameters(), [self.anchor], [weights])}

    def end_experience(self, exp: Experience) -> None:
        self.learned[list(exp.classes)] = True
        self._anchor()

    def _anchor(self) -> None:
        chosen = members_of(self.parameters, self.run.parameters())
        self.anchor = {name: p.detach().clone() for name, p in chosen.items()}


@register("l2", family="regularisation", paper="arXiv:2203.17269", null={"strength": 0.0})
def l2(strength: NotNegative = 0.05, parameters: Group = "all", from_start: bool = True) -> Strategy:
    """L2: a quadratic penalty holds the weights near those at the end of the last experience.

    L = CE(stream) + ε · Σ_j (θ_j − θ*_j)²: EWC with all importances 1. From the start, θ* is the initial, for example
    pretrained, model in the first experience; without it, the first experience may destroy what was pretrained.

    Args:
        strength: ε. The authors' line of code has 0.05 for ResNet-18 and sweeps 5e-4 to 5e-2 for ViT-B/16.
        parameters: which are held: all; encoder, all but the head; qkv, the query, key and value projections of a
            timm transformer; head. `+freeze` says which are trained at all.
        from_start: whether the initial weights are the first anchor.

    Reference: Smith, Tian, Halbe, Hsu, Kira, "A Closer Look at Rehearsal-Free Continual Learning", CVPR-W 2023,
    arXiv:2203.17269.

    Differences from the paper:
        1. Rows of the head that belong to classes not learned yet are not held: it would be near random numbers.
    """
    if strength == 0:
        return CrossEntropy()
    return chain(CrossEntropy(), HoldWeights(strength, parameters, from_start))
