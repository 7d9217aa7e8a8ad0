"""Shrink and perturb.

Ash & Adams, "On Warm-Starting Neural Network Training", NeurIPS 2020, arXiv:1910.08475.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from clbench import Experience, Strategy, register
from clbench.parts import like
from clbench.ranges import NotNegative, Share


class ShrinkPerturb(Strategy):
    """When an experience but the first begins, θ ← λ θ + σ ξ ξ standard normal or the weights of a new network."""

    needs = frozenset({"boundaries"})
    parallel = True
    language = True

    def __init__(self, shrink: float, noise: float, of: Literal["normal", "network"]) -> None:
        self.shrink, self.noise, self.of = shrink, noise, of

    @torch.no_grad()
    def begin_experience(self, exp: Experience) -> None:
        run = self.run
        theta: list[Tensor] = list(run.parameters().values())
        if exp.index == 0 or not theta:
            return
        torch._foreach_mul_(theta, self.shrink)
        if not self.noise:
            return
        if self.of == "network":
            network = run.anew("shrink-perturb")
            weights = dict(network.named_parameters())
            torch._foreach_add_(theta, [weights[name] for name in run.parameters()], alpha=self.noise)
            for buffer, fresh in zip(run.model.buffers(), network.buffers(), strict=True):
                buffer.copy_(fresh)
        else:
            size, rng = sum(p.numel() for p in theta), run.rng("shrink-perturb")
            draw = torch.randn(size, generator=rng, device=run.device, dtype=theta[0].dtype)
            torch._foreach_add_(theta, like(theta, draw), alpha=self.noise)


@register(
    "shrink-perturb",
    family="plasticity",
    paper="arXiv:1910.08475",
    modifier=True,
    null={"shrink": 1.0, "noise": 0.0},
)
def shrink_perturb(
    shrink: Share = 0.6, noise: NotNegative = 0.01, of: Literal["normal", "network"] = "normal"
) -> Strategy:
    """Shrink and perturb: whenever new data come, weights are scaled down and a little noise is added.

    θ ← λ θ + σ ξ, ξ standard normal, when an experience but the first begins; around any other strategy.

    Args:
        shrink: λ; the paper sweeps it from 0 to 1.
        noise: σ; 0.01 in the paper's online experiments.
        of: what ξ is: standard normal, as in the paper's text; or the weights of a network initialised anew, whose
            running statistics take the place of the old ones, as in the authors' code (λ = 0.4, σ = 0.1).

    Reference: Ash & Adams, "On Warm-Starting Neural Network Training", NeurIPS 2020, arXiv:1910.08475.

    Differences from the paper:
        1. All trained parameters take part, those of norms and biases, too.
        2. A network anew has its layers as their classes initialise themselves.
    """
    return ShrinkPerturb(shrink, noise, of)
