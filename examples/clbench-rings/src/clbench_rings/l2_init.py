"""L2 Init."""

from collections.abc import Mapping

from torch import Tensor

from clbench import Batch, Output, Strategy, chain, register
from clbench.parts import CrossEntropy
from clbench.ranges import NotNegative
from clbench_rings.norms import squared_distance


class StayNearStart(Strategy):
    """λ · ‖θ − θ₀‖², with θ₀ the weights before the first step: loss `init`."""

    state = ("start",)

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def setup(self, run) -> None:
        self.start = {name: p.detach().clone() for name, p in run.parameters().items()}

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if self.strength == 0:
            return {}
        return {"init": self.strength * squared_distance(self.run.parameters(), self.start)}


@register("l2-init", paper="arXiv:2308.11958", null={"strength": 0.0})
def l2_init(strength: NotNegative = 1e-3) -> Strategy:
    """L2 Init: weights are drawn back to where they began, so that they can still learn what comes late.

    Args:
        strength: λ.

    Reference: Kumar et al., "Maintaining Plasticity in Continual Learning via Regenerative Regularization",
    CoLLAs 2024, arXiv:2308.11958.
    """
    return chain(CrossEntropy(), StayNearStart(strength))
