"""Regenerative regularisation (L2 Init).

Kumar, Marklund, Van Roy, "Maintaining Plasticity in Continual Learning via Regenerative Regularization", 2023,
arXiv:2308.11958.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clbench import Batch, Output, Run, Strategy, register
from clbench.parts import quadratic_penalty
from clbench.ranges import NotNegative


class Regenerate(Strategy):
    """Weights are drawn back to where they started: `regenerate` is λ · Σ_j (θ_j − θ⁰_j)²."""

    from_start = True
    parallel = True
    capturable = True

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def setup(self, run: Run) -> None:
        self.anchor = {name: p.detach().clone() for name, p in run.parameters().items()}
        self.ones = {name: torch.ones((), device=run.device) for name in self.anchor}

    def held(self) -> Sequence[dict[str, Tensor]]:
        return [self.anchor]

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if not self.anchor:
            return {}
        penalty = quadratic_penalty(self.run.parameters(), [self.anchor], [self.ones])
        return {"regenerate": self.strength * penalty}


@register("regenerate", family="plasticity", paper="arXiv:2308.11958", modifier=True, null={"strength": 0.0})
def regenerate(strength: NotNegative = 1e-3) -> Strategy:
    """Regenerative regularisation: a quadratic penalty draws all weights back to their initial values.

    L + λ · Σ_j (θ_j − θ⁰_j)² around any other strategy. What recent losses do not depend on drifts back to where it
    started, ready to learn again. Unlike `l2`, the anchor never moves.

    Args:
        strength: λ; the default is ours, not tuned.

    Reference: Kumar, Marklund, Van Roy, "Maintaining Plasticity in Continual Learning via Regenerative Regularization",
    2023, arXiv:2308.11958.
    """
    return Regenerate(strength) if strength else Strategy()
