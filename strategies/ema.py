"""Temporal ensembles: predictions by an exponential moving average of the weights.

Soutif-Cormerais, Carta, van de Weijer, "Improving Online Continual Learning Performance and Stability with Temporal
Ensembles", CoLLAs 2023, arXiv:2306.16817.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clbench import Run, Strategy, register
from clbench.parts import entries
from clbench.ranges import Fraction, Natural


class TemporalEnsemble(Strategy):
    """Follows the weights and BatchNorm statistics of the model it trains with, and predicts in its place.

    θ̄ ← m θ̄ + (1 − m) θ after every update; m is `start` for the first `warmup` of them and `momentum` afterwards. If no
    `warmup` is given, the first are those of the first experience; in a stream of one piece, as many as the average is
    long.
    """

    state = ("average", "updates")
    parallel = True
    language = True

    def __init__(self, momentum: float, start: float, warmup: int | None) -> None:
        self.momentum, self.start, self.warmup = momentum, start, warmup
        self.updates = 0

    def setup(self, run: Run) -> None:
        self.average = run.frozen()
        self.pieces = run.benchmark.setting.boundaries or len(run.train) > 1

    def after_update(self) -> None:
        self.updates += 1
        momentum = self.start if self.warming else self.momentum
        pairs = list(zip(entries(self.average), entries(self.run.model), strict=True))
        averages, values = zip(*(pair for pair in pairs if pair[1].is_floating_point()), strict=True)
        # As a step towards θ: where θ̄ is θ, it stays so to the bit.
        torch._foreach_lerp_(averages, values, 1 - momentum)
        for average, value in pairs:
            if not value.is_floating_point():  # counters
                average.copy_(value)

    @property
    def warming(self) -> bool:
        """Whether the present update is one of the first."""
        if self.warmup is None and self.pieces:
            return self.run.experience == 0
        length = math.inf if self.momentum == 1 else round(1 / (1 - self.momentum))
        return self.updates <= (length if self.warmup is None else self.warmup)

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        return self.run.output_of(self.average, x, task).logits


@register(
    "ema",
    family="training",
    version=2,
    paper="arXiv:2306.16817",
    modifier=True,
    null={"momentum": 0.0, "start": 0.0},
)
def ema(momentum: Fraction = 0.99, start: Fraction = 0.9, warmup: Natural | None = None) -> Strategy:
    """Temporal ensemble: a moving average of the weights predicts, and training goes on as if it were not there.

    θ̄ ← m θ̄ + (1 − m) θ after every update, for weights and BatchNorm statistics; m is 0.9 in the first experience and
    λ afterwards. It averages over about the last 1 / (1 − m) updates: where an experience is not many times as long,
    the average lags behind and predicts worse than the weights themselves.

    Args:
        momentum: λ.
        start: m of the first updates.
        warmup: how many updates those are. If none is given, those of the first experience, however many an iteration
            brings; in a stream of one piece, which tells no boundaries, 1 / (1 − λ), the length of the average.

    Reference: Soutif-Cormerais, Carta, van de Weijer, "Improving Online Continual Learning Performance and Stability
    with Temporal Ensembles", CoLLAs 2023, arXiv:2306.16817. The defaults are the authors' in every configuration.

    Differences from the paper:
        1. The head has all outputs from the start, so that nothing grows and has to be aligned.
        2. An iteration that brings no update, having no loss, is not averaged; an iteration of several updates is
           averaged after each.
        3. The authors' streams have a first experience; in a stream of one piece, m changes after 1 / (1 − λ) updates.
    """
    return TemporalEnsemble(momentum, start, warmup)
