"""Skill-It: which skills the next batches hold, by a graph of skills and their losses.

Chen, Roberts, Bhatia, Wang, Zhang, Sala, Ré, "Skill-it! A Data-Driven Skills Framework for Understanding and Training
Language Models", NeurIPS 2023, arXiv:2307.14430.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clbench import Experience, Order, Run, Strategy, chain, register
from clbench.errors import IncompatibleError
from clbench.parts import CrossEntropy, Mixture, skill_weights
from clbench.ranges import Count, NotNegative


class SkillMixture(Mixture):
    """Batches by p_i ∝ exp(η Σ_j A_ij Σ L_j), with the losses of the last checks; p changes every U steps.

    Attributes:
        checks: (k,) losses of the last checks, at most as many as the window takes.
        steps: since p was chosen, with those that are under way.
    """

    state = (*Mixture.state, "checks", "steps", "begun")
    parallel = True
    language = True

    def __init__(
        self, graph: Sequence[Sequence[float]], eta: float, update: int, check: int, window: int, held: int
    ) -> None:
        super().__init__(held)
        self.edges, self.eta, self.update, self.check, self.window = graph, eta, update, check, window
        self.checks: list[Tensor] = []
        self.steps, self.begun = 0, False

    def setup(self, run: Run) -> None:
        super().setup(run)
        k = len(self.sizes)
        shape = [len(row) for row in self.edges]
        if self.edges and shape != [k] * k:
            raise IncompatibleError(
                f"{run.strategy} needs a graph of {k} rows with {k} numbers each, one for every experience of "
                f"{run.benchmark.id}; it has rows of {', '.join(map(str, shape))}. Without graph=, no skill helps "
                "another."
            )
        edges = torch.tensor([list(row) for row in self.edges], dtype=torch.float64)
        self.graph = edges if self.edges else torch.eye(k, dtype=torch.float64)
        self.p = skill_weights(self.graph, [], self.eta)

    def order(self, exp: Experience, epoch: int) -> Order | None:
        """Return the rows up to the next check, or up to the next choice of p if that is nearer."""
        if self.begun:
            self.checks = [*self.checks, self.losses_of_groups()][-self.window :]
        if self.steps >= self.update:
            self.p, self.steps = skill_weights(self.graph, self.checks, self.eta), 0
        steps = min(self.check, self.update - self.steps)
        self.steps, self.begun = self.steps + steps, True
        return Order(self.draw(steps * self.run.batch_size, self.p))


@register("skill-it", family="mixtures", paper="arXiv:2307.14430", tiny={"update": 4, "check": 2})
def skill_it(
    graph: tuple[tuple[NotNegative, ...], ...] = (),
    eta: NotNegative = 0.5,
    update: Count = 100,
    check: Count = 20,
    window: Count = 3,
    held: Count = 64,
) -> Strategy:
    """Online mixture by skills: skills that are still hard, and what leads to them, come more often.

    All experiences are at hand from the first step on, a skill each. A row is of skill i with p_i, at first
    ∝ exp(η Σ_j A_ij) and after every U steps ∝ exp(η Σ_j A_ij Σ_w L_wj): A_ij says how much training on i helps j, and
    L_wj are j's losses at the last checks. Weights do not add up over rounds. Cross-entropy on what is drawn.

    It is a bound: it sees the data of all experiences at any time, and its steps are those of `offline`.

    Args:
        graph: A, a row for each skill that is trained and a column for each that it helps, usually 1 on the diagonal
            and 0.5 for an edge; the identity if none is given. It is not learned here: the paper compares runs for it.
        eta: η.
        update: U, steps between choices of p.
        check: steps between checks of the losses.
        window: checks that are summed up.
        held: rows of each skill that are kept out of training to check its loss, half of them at most.

    Reference: Chen, Roberts, Bhatia, Wang, Zhang, Sala, Ré, "Skill-it! A Data-Driven Skills Framework for Understanding
    and Training Language Models", NeurIPS 2023, arXiv:2307.14430.

    Differences from the paper:
        1. Losses are checked on rows that are held out of the training data, as a strategy sees no others.
        2. Every skill that is trained is measured, and the other way round; there is no prior.
    """
    return chain(SkillMixture(graph, eta, update, check, window, held), CrossEntropy())
