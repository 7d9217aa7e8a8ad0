"""A second strategy of one's own, with state, a need and null parameters.

clbench check stay-close --plugin examples/stay_close.py
"""

import torch

from clbench import Strategy, chain, register
from clbench.parts import CrossEntropy
from clbench.ranges import NotNegative


class StayClose(Strategy):
    """A penalty on the distance from the weights at the end of the last experience."""

    needs = frozenset({"boundaries"})  # the engine refuses a stream that tells none
    state = ("anchor",)  # what a checkpoint must hold

    def __init__(self, strength):
        self.strength = strength
        self.anchor = {}  # parameter name → weights then

    def losses(self, batch, out):
        if not self.anchor or self.strength == 0:
            return {}
        now = self.run.parameters()
        return {
            "stay": self.strength
            * torch.stack([((now[n] - w) ** 2).sum() for n, w in self.anchor.items()]).sum()
        }

    def end_experience(self, exp):
        self.anchor = {n: p.detach().clone() for n, p in self.run.parameters().items()}


@register("stay-close", null={"strength": 0.0})
def stay_close(strength: NotNegative = 0.1) -> Strategy:
    """Fine-tuning that stays close to the weights it had at the last boundary."""
    return chain(CrossEntropy(), StayClose(strength))
