"""LAWA and SWA: predictions by the mean of checkpoints.

Kaddour, "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest Weight Averaging", 2022,
arXiv:2209.14981. Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018,
arXiv:1803.05407.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench import Experience, Run, Strategy, register
from clbench.parts import entries
from clbench.ranges import Count, Natural


class AveragedCheckpoints(Strategy):
    """Keeps the model as it was after every so many updates, and predicts by the mean of what it keeps.

    Attributes:
        average: the mean. kept: for each of its entries of floating point, the last checkpoints (last, …), or the sum
            of all (1, …) in float64. taken: how many checkpoints; updates: since it began, or began anew.
    """

    state = ("average", "kept", "taken", "updates")
    parallel = True
    language = True

    def __init__(self, last: int | None, period: int, start: int, restart: bool) -> None:
        self.last, self.period, self.start, self.restart = last, period, start, restart
        self.taken = self.updates = 0

    def setup(self, run: Run) -> None:
        self.average = run.frozen()
        floating = [value for value in entries(run.model) if value.is_floating_point()]
        if self.last is None:
            self.kept = [torch.zeros_like(value[None], dtype=torch.float64) for value in floating]
        else:
            self.kept = [value.new_zeros((self.last, *value.shape)) for value in floating]

    def begin_experience(self, exp: Experience) -> None:
        if self.restart and exp.index > 0:
            self.taken = self.updates = 0
            for kept in self.kept:
                kept.zero_()

    def after_update(self) -> None:
        self.updates += 1
        since = self.updates - self.start
        if since > 0 and since % self.period == 0:
            self._take()

    def _take(self) -> None:
        kept = iter(self.kept)
        for average, value in zip(entries(self.average), entries(self.run.model), strict=True):
            if value.is_floating_point():
                average.copy_(self._mean(next(kept), value))
            else:  # counters
                average.copy_(value)
        self.taken += 1

    def _mean(self, kept: Tensor, value: Tensor) -> Tensor:
        """Take an entry in, and return the mean of it; in float64, in which that of equal values is themselves."""
        if self.last is None:
            return kept[0].add_(value) / (self.taken + 1)
        kept[self.taken % self.last] = value
        n = min(self.taken + 1, self.last)
        return kept[:n].sum(0, dtype=torch.float64) / n

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        model = self.average if self.taken else self.run.model
        return self.run.output_of(model, x, task).logits


@register(
    "lawa",
    family="training",
    paper="arXiv:2209.14981",
    modifier=True,
    null={"last": 1, "period": 1},
    tiny={"last": 3, "period": 2},
)
def lawa(last: Count | None = 5, period: Count = 10, start: Natural = 0, restart: bool = False) -> Strategy:
    """LAWA: the mean of the last checkpoints predicts, and training goes on as if it were not there; SWA: of all.

    θ̄ = (θ_t + θ_{t−ν} + … + θ_{t−(k−1)ν}) / k, for weights and BatchNorm statistics, whenever a checkpoint is taken;
    of those that there are while they are fewer. SWA is `last=none`. After a warm-up and at a constant rate, the mean
    stands in for an anneal: `optim.schedule=wsd optim.anneal=1` with `last=none` and `start` at the warm-up's end
    merges the stable phase.

    Args:
        last: k checkpoints, each a copy of the weights in memory; none averages all, for a sum in float64.
        period: ν updates between two.
        start: updates before the first period begins; until a checkpoint is taken the weights themselves predict.
        restart: forget all checkpoints at every boundary that is told, and count updates anew. Without it the mean goes
            across boundaries, and lags behind for k ν updates.

    Reference: Kaddour, "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest Weight Averaging",
    2022, arXiv:2209.14981; for `last=none` Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
    Generalization", UAI 2018, arXiv:1803.05407. The defaults are not theirs, whose checkpoints are epochs apart.

    Differences from the papers:
        1. BatchNorm statistics are averaged like weights; SWA computes them anew by a pass over all training data,
           of which a stream holds the present experience only.
        2. The learning rate is the run's; SWA's is constant or cyclic.
    """
    return AveragedCheckpoints(last, period, start, restart)
