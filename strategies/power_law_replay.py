"""Replay by age.

Gandhi et al., "Natural Mitigation of Catastrophic Interference: Continual Learning in Power-Law Learning
Environments", 2024, arXiv:2401.10393.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.parts import CrossEntropy, Rehearsal, lag_weights
from clbench.ranges import Natural, NotNegative

Decay = Literal["power", "exponential", "uniform", "recency"]


class AgedReplay(Rehearsal):
    """Examples of earlier experiences join every batch, an experience of lag ℓ with a share in proportion to
    w_ℓ.

    An example's weight is w_ℓ / m_ℓ, with m_ℓ the examples held of its experience, so that shares do not
    depend on how many the reservoir holds of each. Examples of the present experience come only where older
    ones run out.
    """

    needs = frozenset({"memory", "boundaries"})
    state = ("memory", "experience", "weights")
    parallel = True
    language = True

    def __init__(self, capacity: int, draw: int | None, decay: Decay, rate: float) -> None:
        super().__init__(capacity, draw)
        self.decay, self.rate = decay, rate
        self.experience = 0

    def setup(self, run: Run) -> None:
        super().setup(run)
        self.weights = torch.zeros(0, device=run.device)  # (experience,) of lags 1, 2, …

    def begin_experience(self, exp: Experience) -> None:
        self.experience = exp.index
        weights = lag_weights(self.decay, exp.index, self.rate).tolist()
        self.weights = torch.tensor(weights, dtype=torch.float32, device=self.run.device)

    def extend(self, batch: Batch) -> Batch:
        n = self.due(batch)
        if n == 0 or self.experience == 0:
            return batch
        lag = self.experience - self.memory["experience"]
        chosen = draw_by_age(n, lag, self.weights, self.run.rng("replay"))
        x, y, task = (self.memory[name].index_select(0, chosen) for name in ("x", "y", "task"))
        return batch.join(self.run.augment(x), y, task, x)

    def after_step(self, batch: Batch, out: Output) -> None:
        if self.draw == 0:  # nothing will ever be drawn
            return
        x, y, task = batch.firsts(batch.raw), batch.firsts(batch.y), batch.firsts(batch.task)
        now = torch.full_like(task, self.experience)
        self.memory.add(self.run.rng("memory"), x=x, y=y, task=task, experience=now)


def draw_by_age(n: int, lag: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
    """(n,) places of examples drawn without replacement, one after the other, each in proportion to its
    weight.

    The largest sums of logarithmic weights and Gumbel noise are such a draw.

    Args:
        lag: (M,) of the examples held; those of lag 0 are drawn last of all. weights: (L,) of lags 1 … L.
    """
    held = torch.zeros(len(weights) + 1, device=lag.device).scatter_add_(
        0, lag, torch.ones_like(lag, dtype=torch.float32)
    )
    share = torch.cat([torch.zeros_like(weights[:1]), weights]) / held.clamp(min=1)
    noise = torch.rand(len(lag), generator=generator, device=lag.device).clamp_(1e-20)
    score = share[lag].clamp(min=1e-30).log() - (-noise.log()).clamp(min=1e-20).log()
    score = torch.where(lag > 0, score, score - 200)
    return score.topk(n).indices


@register("power-law-replay", family="replay", paper="arXiv:2401.10393", null={"draw": 0})
def power_law_replay(
    memory: Natural = 200, draw: Natural | None = None, decay: Decay = "power", rate: NotNegative = 1.0
) -> Strategy:
    """Replay by age: by a power law, the older an experience is, the fewer of its examples join a batch.

    It carries the power-law environment, in which the stream itself brings old examples, over to a memory: a
    replayed example is of the experience ℓ experiences ago with a probability in proportion to ℓ^−rate.

    Args:
        memory: examples the reservoir holds.
        draw: examples that join a batch; as many as the stream brings if none is given.
        decay: how the weight falls with ℓ: power, exponential (e^−rate·(ℓ−1)), uniform over the experiences,
            or recency (the last experience, older ones only where its examples run out).
        rate: how fast it falls.

    Reference: Gandhi et al., "Natural Mitigation of Catastrophic Interference: Continual Learning in
    Power-Law Learning Environments", 2024, arXiv:2401.10393.

    Differences from the paper:
        1. There, old examples are fresh ones that the environment brings (the benchmarks power-law-*); here
           they are those of a reservoir.
        2. The paper's exponent could not be established; 1 is of the order that studies of natural
           environments find.
    """
    return chain(AgedReplay(memory, draw, decay, rate), CrossEntropy())
