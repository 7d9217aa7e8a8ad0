"""A third strategy of one's own: mixup between past and present, with a memory and drawn numbers of its own.

clbench check mixup-replay --plugin examples/mixup_replay.py
"""

import torch
from torch.nn import functional as F

from clbench import Reservoir, Strategy, chain, register
from clbench.parts import CrossEntropy
from clbench.ranges import Natural, NotNegative


class MixWithPast(Strategy):
    """Cross-entropy of λ · new + (1 − λ) · old against both labels in the same shares: loss `mixed`."""

    needs = frozenset({"memory"})
    state = ("memory",)

    def __init__(self, capacity, weight):
        self.capacity, self.weight = capacity, weight

    def setup(self, run):
        self.memory = Reservoir(self.capacity)

    def losses(self, batch, out):
        n = min(batch.new, len(self.memory))
        if n == 0 or self.weight == 0:
            return {}
        old = self.memory.draw(n, self.run.rng("mixup"))
        share = torch.rand(n, generator=self.run.rng("share"), device=self.run.device)  # (n,)
        wide = share.view(-1, *[1] * (batch.x.ndim - 1))
        x = wide * batch.x[:n] + (1 - wide) * self.run.augment(old["x"])
        logits = self.run.forward(x, batch.task[:n]).logits
        new = F.cross_entropy(logits, batch.y[:n], reduction="none")
        past = F.cross_entropy(logits, old["y"], reduction="none")
        return {"mixed": self.weight * (share * new + (1 - share) * past).mean()}

    def after_step(self, batch, out):
        self.memory.add(self.run.rng("memory"), **batch.examples())


@register("mixup-replay", paper="arXiv:1710.09412", null={"weight": 0.0})
def mixup_replay(memory: Natural = 200, weight: NotNegative = 1.0) -> Strategy:
    """Mixup of new examples with stored ones, beside the plain loss on new ones (after arXiv:1710.09412)."""
    return chain(CrossEntropy(), MixWithPast(memory, weight))
