"""Merging of what experiences have learned: averages, task arithmetic, TIES.

Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, arXiv:2212.04089; Yadav et al., "TIES-Merging:
Resolving Interference When Merging Models", NeurIPS 2023, arXiv:2306.01708.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from clbench import Experience, Run, Strategy, register
from clbench.parts import Group, as_vector, like, members_of
from clbench.ranges import NotNegative, Share

How = Literal["average", "ema", "arithmetic", "ties"]
Combine = Literal["mean", "sum", "max"]


def trimmed(vectors: Tensor, keep: float) -> Tensor:
    """(T, P) of each vector the ⌊P K⌋ + 1 entries of largest magnitude, all others 0; as released, one more than K."""
    size = vectors.shape[1]
    rank = size - int(size * keep)
    if rank < 1:
        return vectors
    magnitudes = vectors.abs()
    return vectors.where(magnitudes >= magnitudes.kthvalue(rank, dim=1, keepdim=True).values, 0)


def ties(vectors: Tensor, keep: float, combine: Combine = "mean") -> Tensor:
    """(T, P) task vectors → (P,): trimmed, and of each entry those of the elected sign, the sign of their sum.

    Where that is 0, it is the sign that most entries have elected.
    """
    kept = trimmed(vectors, keep)
    sign = kept.sum(0).sign()
    sign = sign.where(sign != 0, sign.sum().sign())
    agreeing = kept.where(torch.where(sign > 0, kept > 0, kept < 0), 0)
    if combine == "max":
        return agreeing.abs().amax(0) * sign
    total = agreeing.sum(0)
    return total if combine == "sum" else total / (agreeing != 0).sum(0).clamp(min=1)


class Merged(Strategy):
    """At an experience's end, weights become those merged of all experiences so far.

    Attributes:
        origin: θ₀ (P,), the weights before the first experience. merged: θ̄ (P,).
        vectors: (T, P) task vectors, for TIES. total: (P,) float64, their sum, for arithmetic.
    """

    needs = frozenset({"boundaries"})
    state = ("merged", "vectors", "total")
    parallel = True
    language = True

    def __init__(
        self,
        how: How,
        independent: bool,
        scale: float,
        rate: float,
        keep: float,
        combine: Combine,
        group: Group,
    ) -> None:
        self.how, self.independent, self.scale, self.rate = how, independent, scale, rate
        self.keep, self.combine, self.group = keep, combine, group

    def setup(self, run: Run) -> None:
        # No checkpoint holds it: a run that goes on is built with these weights, too.
        self.members = list(members_of(self.group, run.parameters()).values())
        self.origin = self.merged = self._weights()
        self.vectors = self.origin.new_zeros((0, len(self.origin)))
        self.total = torch.zeros_like(self.origin, dtype=torch.float64)

    def _weights(self) -> Tensor:
        return as_vector([p.detach() for p in self.members])

    def _set(self, vector: Tensor) -> None:
        torch._foreach_copy_(tuple(self.members), like(self.members, vector))

    @torch.no_grad()
    def begin_experience(self, exp: Experience) -> None:
        if self.independent and exp.index > 0:
            self._set(self.origin)
            self.run.forget_moments({p: torch.ones_like(p, dtype=torch.bool) for p in self.members})

    @torch.no_grad()
    def end_experience(self, exp: Experience) -> None:
        now = self._weights()
        begun = self.origin if self.independent else self.merged
        if self.how == "arithmetic":
            # In float64, so that of one experience with λ = 1 the weights are what they were.
            self.total = self.total + (now.double() - begun.double())
            self.merged = (self.origin.double() + self.scale * self.total).to(now.dtype)
        elif self.how == "ties":
            self.vectors = torch.cat([self.vectors, (now - begun).unsqueeze(0)])
            self.merged = self.origin + self.scale * ties(self.vectors, self.keep, self.combine)
        else:
            rate = 1 / (exp.index + 1) if self.how == "average" or exp.index == 0 else self.rate
            self.merged = self.merged.lerp(now, rate)
        self._set(self.merged)


@register(
    "merge",
    family="training",
    paper="arXiv:2306.01708",
    modifier=True,
    null={"how": "ema", "rate": 1.0, "start": "merged"},
)
def merge(
    how: How = "average",
    start: Literal["merged", "origin"] = "merged",
    scale: NotNegative = 1.0,
    rate: Share = 0.5,
    keep: Share = 0.2,
    combine: Combine = "mean",
    parameters: Group = "encoder",
) -> Strategy:
    """Merges, at each experience's end, what all experiences so far have made of the weights.

    θ_t are the weights as experience t has left them, τ_t what it has changed of those it began with. average:
    θ̄_t = (1 − 1/t) θ̄_{t−1} + θ_t / t. ema: θ̄_t = (1 − ρ) θ̄_{t−1} + ρ θ_t, from θ̄_1 = θ_1 on. arithmetic:
    θ̄_t = θ₀ + λ Σ τ_k. ties: θ₀ + λ · merged, where each τ_k keeps the fifth of its entries that is largest, each entry
    elects the sign of its sum, and the mean is taken over those of that sign. Around any other strategy, which stands
    before it: teachers and importances of that are taken before weights are merged. What a head has learned belongs to
    what the encoder was, and is not merged: accuracy falls at the merge, most where experiences begin from the origin.

    Args:
        how: average, ema, arithmetic or ties.
        start: from where the next experience is trained: merged, θ̄, one after the other; origin, θ₀, each for itself.
        scale: λ, of arithmetic and ties. Eight tasks took 0.3 to 0.4 where each was trained for itself; 1 is right for
            ties, and for arithmetic in sequence it merges nothing.
        rate: ρ, of ema; 1 merges nothing.
        keep: share of the entries of each τ, of ties, over all tensors together; one entry more is kept, as released.
        combine: of ties: mean, sum, or max, the largest magnitude.
        parameters: which are merged: encoder, all but the head; all; qkv; head. Low-rank maps A and B are merged each
            for itself, which is not the merge of B A.

    Reference: Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, arXiv:2212.04089; Yadav et al.,
    "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023, arXiv:2306.01708.

    Differences from the papers:
        1. They merge models that are there at the same time, each with a head of its own; here experiences come one
           after the other and share a head.
        2. Statistics of batch normalisation are those of the last experience.
        3. TIES with all entries kept keeps all of them; the authors' code fails.
    """
    return Merged(how, start == "origin", scale, rate, keep, combine, parameters)
