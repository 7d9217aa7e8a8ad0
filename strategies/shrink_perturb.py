"""Shrink and perturb.

Ash & Adams, "On Warm-Starting Neural Network Training", NeurIPS 2020, arXiv:1910.08475.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench import Experience, Strategy, register
from clbench.parts import like
from clbench.ranges import NotNegative, Share


class ShrinkPerturb(Strategy):
    """When an experience but the first begins, θ ← λ θ + σ ξ with ξ standard normal."""

    needs = frozenset({"boundaries"})
    parallel = True

    def __init__(self, shrink: float, noise: float) -> None:
        self.shrink, self.noise = shrink, noise

    @torch.no_grad()
    def begin_experience(self, exp: Experience) -> None:
        run = self.run
        theta: list[Tensor] = list(run.parameters().values())
        if exp.index == 0 or not theta:
            return
        torch._foreach_mul_(theta, self.shrink)
        if self.noise:
            size, rng = sum(p.numel() for p in theta), run.rng("shrink-perturb")
            draw = torch.randn(size, generator=rng, device=run.device, dtype=theta[0].dtype)
            torch._foreach_add_(theta, like(theta, draw), alpha=self.noise)


@register("shrink-perturb", paper="arXiv:1910.08475", modifier=True, null={"shrink": 1.0, "noise": 0.0})
def shrink_perturb(shrink: Share = 0.6, noise: NotNegative = 0.01) -> Strategy:
    """Shrink and perturb: whenever new data come, weights are scaled down and a little noise is added.

    θ ← λ θ + σ ξ, ξ standard normal, when an experience but the first begins; around any other strategy.

    Args:
        shrink: λ; the paper sweeps it from 0 to 1.
        noise: σ; 0.01 in the paper's online experiments.

    Reference: Ash & Adams, "On Warm-Starting Neural Network Training", NeurIPS 2020, arXiv:1910.08475.

    Differences from the paper:
        1. All trained parameters take part, those of norms and biases, too.
    """
    return ShrinkPerturb(shrink, noise)
