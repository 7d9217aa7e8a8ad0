"""Aioli: which groups the next batches hold, by a law of mixtures that is fitted while the model trains.

Chen, Hu, Lourie, Cho, Ré, "Aioli: A Unified Optimization Framework for Language Model Data Mixing", ICLR 2025,
arXiv:2411.05735.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench import Experience, Order, Run, Strategy, chain, register
from clbench.errors import IncompatibleError
from clbench.parts import (
    CrossEntropy,
    Mixture,
    aioli_graph,
    aioli_weights,
    normalised_graph,
    probe_mixtures,
)
from clbench.ranges import Count, Fraction, NotNegative, Part


class FittedMixture(Mixture):
    """Rounds of U steps: some on mixtures that try each group, which show what each does to all; the rest on p.

    Attributes:
        turns: groups that are still to be tried in the round, the next one last; trying: the present one, −1 for none.
        before: (k,) losses when it began; drops: (k, k) sums of the round, a column for each group tried.
        graph: (k, k), the law's, normalised; zeros before the first.
    """

    state = (*Mixture.state, "turns", "trying", "before", "drops", "graph", "fresh")
    parallel = True
    language = True

    def __init__(
        self,
        eta: float,
        ema: float | None,
        sweeps: int,
        steps: int,
        update: int,
        focus: float,
        held: int,
    ) -> None:
        super().__init__(held)
        self.eta, self.ema, self.sweeps, self.steps = eta, ema, sweeps, steps
        self.update, self.focus = update, focus
        self.turns: list[int] = []
        self.trying, self.fresh = -1, True

    def setup(self, run: Run) -> None:
        super().setup(run)
        k = len(self.sizes)
        self.rest = self.update - self.sweeps * k * self.steps
        if self.rest < 0:
            raise IncompatibleError(
                f"{run.strategy} tries each of {k} groups in {self.sweeps} sweeps of {self.steps} steps, "
                f"{self.update - self.rest} steps in all, and a round has {self.update}; set "
                f"update={self.update - self.rest} or more, or fewer sweeps."
            )
        if k > 1 and abs(self.focus - 1 / k) < 1e-9:
            raise IncompatibleError(
                f"{run.strategy} tries a group by giving it a share of focus={self.focus}, which is that of all {k}; "
                "give it more."
            )
        self.mixtures = probe_mixtures(k, self.focus)
        self.before = torch.zeros(k, dtype=torch.float64)
        self.drops = torch.zeros(k, k, dtype=torch.float64)
        self.graph = torch.zeros_like(self.drops)

    def order(self, exp: Experience, epoch: int) -> Order | None:
        """Return the rows of the next trial, or of what follows the trials of a round."""
        if self.trying >= 0:
            after = self.losses_of_groups()
            self.drops[:, self.trying] += (self.before - after) / self.sweeps
            self.before = after
        elif self.fresh:  # a round begins
            self.turns = self._turns()
            self.before, self.drops = self.losses_of_groups(), torch.zeros_like(self.drops)
            self.fresh = False
        if self.turns:
            self.trying = self.turns.pop()
            return self._rows(self.steps, self.mixtures[self.trying])
        if self.trying >= 0:
            self._choose()
        self.trying, self.fresh = -1, True
        return self._rows(self.rest, self.p) if self.rest else self.order(exp, epoch)

    def _turns(self) -> list[int]:
        rng, k = self.run.rng("mixture turns"), len(self.sizes)
        sweeps = [torch.randperm(k, generator=rng, device=rng.device) for _ in range(self.sweeps)]
        return [int(j) for sweep in sweeps for j in sweep.tolist()]

    def _choose(self) -> None:
        """Fit the law to what the trials have shown, and choose p by it."""
        graph = normalised_graph(aioli_graph(self.drops, self.focus))
        if self.ema is not None and bool(self.graph.any()):
            graph = (1 - self.ema) * graph + self.ema * self.graph
        self.graph = graph
        self.p = aioli_weights(graph, self.eta, self.p if self.ema is None else None)

    def _rows(self, steps: int, p: Tensor) -> Order:
        return Order(self.draw(steps * self.run.batch_size, p))


@register("aioli", family="mixtures", paper="arXiv:2411.05735", tiny={"sweeps": 1, "steps": 1, "update": 6})
def aioli(
    eta: NotNegative = 0.2,
    ema: Fraction | None = 0.1,
    sweeps: Count = 4,
    steps: Count = 4,
    update: Count = 250,
    focus: Part = 0.625,
    held: Count = 64,
) -> Strategy:
    """Online mixture by a fitted law: groups are tried in turn, and come by how much they lower all losses.

    All experiences are at hand from the first step on, a group each. A round of U steps first tries every group, in r
    sweeps in random order: some steps on the mixture M_j with share f of group j and (1 − f)/(k − 1) of the others.
    D_ij is the mean drop of group i's loss in them. A solves A·M = D; less its least entry if that is negative, over
    its sum, it is A′, and with ε, (1 − ε) A′ + ε A_before. The rest of the round is drawn by p_j ∝ exp(η Σ_i A_ij).
    Trials are steps of training like all others. Cross-entropy on what is drawn.

    It is a bound: it sees the data of all experiences at any time, and its steps are those of `offline`.

    Args:
        eta: η.
        ema: ε, the weight of the last round's A; null for the rule without it, in which p is multiplied on from round
            to round.
        sweeps: r.
        steps: of a trial.
        update: U, at least r · k · steps.
        focus: f.
        held: rows of each group that are kept out of training to check its loss, half of them at most.

    Reference: Chen, Hu, Lourie, Cho, Ré, "Aioli: A Unified Optimization Framework for Language Model Data Mixing", ICLR
    2025, arXiv:2411.05735. The defaults are those of its README, for 5000 steps.

    Differences from the paper:
        1. Losses are checked on rows that are held out of the training data, as a strategy sees no others.
    """
    return chain(FittedMixture(eta, ema, sweeps, steps, update, focus, held), CrossEntropy())
