"""MoRA: each experience adds experts of rank 1, and every token chooses few of all of them by itself.

Lu et al., "Little By Little: Continual Learning via Self-Activated Sparse Mixture-of-Rank Adaptive Learning",
arXiv:2506.21035.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Strategy, chain, register
from clbench.errors import IncompatibleError
from clbench.parts import Dropout, LowRank, LowRankTuning, Stage, Target, TrainOnly, label_losses
from clbench.ranges import Count, Fraction, Natural, Positive

TINY = 1e-12


def activation(scores: Tensor, temperature: float, top: int) -> Tensor:
    """(…, N) weights of experts: softmax(s / τ), of which the k largest are kept and made to add up to 1."""
    kept = scores.topk(min(top, scores.shape[-1]), dim=-1).indices
    others = torch.ones_like(scores, dtype=torch.bool).scatter(-1, kept, False)
    return (scores / temperature).masked_fill(others, float("-inf")).softmax(dim=-1)


class Experts(LowRank):
    """s · Σ_j ω_j(x) B_j A_j x over the experts so far, with ω of cos(A_j, x); the present experience's are trained.

    Args:
        downs: A of each experience's r experts (r, i).
        outputs: o.
        scale: s.
        dropout: on x, behind the choice.
        stage: says which experience is the present one.
        temperature: τ.
        top: k, in training and at test; None for all experts with weight 1 each.
    """

    def __init__(
        self,
        downs: Sequence[Tensor],
        outputs: int,
        scale: float,
        dropout: Dropout,
        stage: Stage,
        temperature: float,
        top: tuple[int, int] | None,
    ) -> None:
        super().__init__(downs, outputs, scale, dropout, stage)
        self.temperature, self.top = temperature, top

    def forward(self, x: Tensor) -> Tensor:
        """(…, i) → (…, o)."""
        if self.top is None:
            return super().forward(x)
        down = self.down()
        cosines = F.linear(F.normalize(x, dim=-1, eps=TINY), F.normalize(down, dim=1, eps=TINY))  # (…, N)
        weights = activation(cosines, self.temperature, self.top[0 if self.training else 1])
        return self.scale * F.linear(weights * F.linear(self.dropout(x), down), self.up())

    def delta(self) -> Tensor:
        """Refuse, but where every expert has weight 1: which matrix it is depends on the token."""
        if self.top is None:
            return super().delta()
        raise IncompatibleError(
            "mora's experts depend on the token; they cannot be merged into a layer's weights."
        )


class RankOneExperts(LowRankTuning):
    """Experts of all experiences take part, and the present one's are trained."""

    needs = frozenset({"boundaries"})
    parallel = True

    def __init__(
        self,
        rank: int,
        scale: float,
        dropout: float,
        targets: Sequence[Target],
        temperature: float,
        top: tuple[int, int] | None,
    ) -> None:
        super().__init__(rank, scale, dropout, targets, slots=True)
        self.temperature, self.top = temperature, top

    def make(self, inputs: int, outputs: int) -> LowRank:
        plain = super().make(inputs, outputs)
        downs = [down.detach() for down in plain.downs]
        how = self.temperature, self.top
        return Experts(downs, outputs, self.scale, plain.dropout, self.stage, *how)


@register("mora", family="low rank", paper="arXiv:2506.21035", tiny={"rank": 4, "top": 2})
def mora(
    rank: Natural = 16,
    top: Natural = 8,
    temperature: Positive = 0.1,
    budget: Count | None = None,
    scale: Positive = 1.0,
    targets: tuple[Target, ...] = ("q", "k", "v", "proj", "fc1", "fc2"),
    dropout: Fraction = 0.0,
    head: Positive = 1.0,
) -> Strategy:
    """MoRA: experts of rank 1, r new ones for each experience, of which every token activates the few that fit it.

    y = W x + b + s Σ_j ω_j(x) B_j A_j x, with ω = softmax(cos(A_j, x) / τ) over all experts so far, the k largest kept
    and made to add up to 1. There is no router: an expert's own direction A_j says how much it has to do with a token.
    Experts of earlier experiences stay, but what they give changes: new ones take part in the softmax, with B_j = 0 at
    first, so that they take weight and give nothing. The function so jumps whenever an experience begins. Each token is
    compared with all experts, whose number grows. Cross-entropy is over the present experience's classes.

    Args:
        rank: r, experts that an experience adds to each layer; 0 leaves the head alone, as `linear-probe` does.
        top: k; 0 lets all experts take part with weight 1 each, which is low-rank branches of rank r.
        temperature: τ.
        budget: k at test; as in training if none is given.
        scale: s. Weights add up to 1, and so are about r times smaller than those of a branch of rank r.
        targets: the layers: q, k, v, the projections of attention; proj, the one after it; fc1, fc2 of the perceptron.
        dropout: on x, in the experts only, and not where they are chosen.
        head: factor on the head's learning rate.

    Reference: Lu et al., "Little By Little: Continual Learning via Self-Activated Sparse Mixture-of-Rank Adaptive
    Learning", arXiv:2506.21035. r is the authors'; τ and k are not.

    Differences from the paper:
        1. Experts of little use are not pruned.
        2. Experts of all experiences are there from the start, and counted; those to come are not read.
        3. A head names the class, where they tune CLIP and language models.
    """
    if not rank:
        return chain(TrainOnly("head"), label_losses("local", head))
    tops = (top, budget or top) if top else None
    return chain(
        RankOneExperts(rank, scale, dropout, targets, temperature, tops), label_losses("local", head)
    )
