"""Synaptic Intelligence (SI).

Zenke, Poole, Ganguli, "Continual Learning Through Synaptic Intelligence", ICML 2017, arXiv:1703.04200.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.parts import CrossEntropy, quadratic_penalty
from clbench.ranges import NotNegative, Positive

Tensors = dict[str, Tensor]


class PathIntegral(Strategy):
    """A quadratic penalty holds each weight near its last value, as firmly as its path has lowered the loss.

    `si` is c · Σ_j Ω_j (θ_j − θ̃_j)² (eq. 4). Along an experience, ω_j adds up −g_j Δθ_j over the updates (eq. 3), g the
    gradient without the penalty's; at its end Ω ← max(0, Ω + ω / (Δ² + ξ)) (eq. 5), with Δ the way from θ̃.
    """

    needs = frozenset({"boundaries"})
    state = ("anchor", "importance", "path")
    parallel = True
    capturable = True
    language = True

    def __init__(self, strength: float, xi: float) -> None:
        self.strength, self.xi = strength, xi
        self.importance: Tensors = {}  # Ω, nothing before the first end
        self.before: dict[str, tuple[Tensor, Tensor]] = {}  # between a gradient and its update: θ, g

    def setup(self, run: Run) -> None:
        self.anchor = {name: p.detach().clone() for name, p in run.parameters().items()}  # θ̃
        self.path = {name: torch.zeros_like(p) for name, p in run.parameters().items()}  # ω

    def held(self) -> Sequence[Tensors]:
        return [self.anchor]

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if not self.importance or self.strength == 0:
            return {}
        penalty = quadratic_penalty(self.run.parameters(), [self.anchor], [self.importance])
        return {"si": self.strength * penalty}

    @torch.no_grad()
    def gradients(self) -> None:
        self.before = {
            name: (p.detach().clone(), p.grad - self.pull(name, p))
            for name, p in self.run.parameters().items()
            if p.grad is not None
        }

    def pull(self, name: str, p: Tensor) -> Tensor | float:
        """Return the penalty's gradient, 2 c Ω (θ − θ̃)."""
        if not self.importance:
            return 0.0
        return 2 * self.strength * self.importance[name] * (p - self.anchor[name])

    def after_update(self) -> None:
        theta = self.run.parameters()
        for name, (start, gradient) in self.before.items():
            moved = theta[name] - start
            # A weight that stayed adds nothing, not even where fp16 overflowed and the update was left out.
            self.path[name] -= torch.where(moved == 0, 0.0, gradient * moved)
        self.before = {}

    @torch.no_grad()
    def end_experience(self, exp: Experience) -> None:
        for name, p in self.run.parameters().items():
            new = self.path[name] / ((p - self.anchor[name]) ** 2 + self.xi)
            self.importance[name] = (self.importance.get(name, 0.0) + new).clamp_(min=0)
            self.anchor[name] = p.detach().clone()
            self.path[name] = torch.zeros_like(p)


@register("si", family="regularisation", paper="arXiv:1703.04200", null={"strength": 0.0})
def si(strength: NotNegative = 0.1, xi: Positive = 0.1) -> Strategy:
    """Synaptic Intelligence: weights whose path lowered past losses are held near their values then.

    L = CE(stream) + c · Σ_j Ω_j (θ_j − θ̃_j)², Ω_j adding up over experiences −∫ g_j dθ_j / (Δ_j² + ξ).

    Args:
        strength: c.
        xi: ξ, which bounds the importance of weights that hardly moved.

    Reference: Zenke, Poole, Ganguli, "Continual Learning Through Synaptic Intelligence", ICML 2017, arXiv:1703.04200.
    The defaults are theirs for permuted MNIST.

    Differences from the paper:
        1. Ω is kept from falling below zero, as in the authors' code: a step up a noisy loss would otherwise push a
           weight away from its anchor.
        2. The head is shared by all experiences and is part of the penalty, as everything trainable is.
        3. Whatever else the chain adds to the loss, replay for example, belongs to the loss that the path lowers.
    """
    return chain(CrossEntropy(), PathIntegral(strength, xi))
