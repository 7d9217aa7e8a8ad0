"""ACIL: ridge regression on random features, updated batch by batch, equal to what all data at once would give.

Zhuang, Weng, Wei, Xie, Toh, Lin, "ACIL: Analytic Class-Incremental Learning with Absolute Memorization and Privacy
Protection", NeurIPS 2022, arXiv:2205.14922; for streams without boundaries, Zhuang et al., "GACL: Exemplar-Free
Generalized Analytic Continual Learning", NeurIPS 2024, arXiv:2403.15706.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Run, Strategy, chain, register
from clbench.parts import Expanded, OnePass, TrainOnly
from clbench.ranges import Natural, Positive
from clbench.types import MASKED


class Recursive(nn.Module):
    """Recursive least squares: after any batches, in any order, W = (HᵀH + γ I)⁻¹ HᵀY over all their rows.

    Attributes:
        inverse: R = (HᵀH + γ I)⁻¹ (M, M). weight: W (M, C). counts: (C,).
    """

    inverse: Tensor
    weight: Tensor
    counts: Tensor

    def __init__(self, features: int, classes: int, ridge: float) -> None:
        super().__init__()
        self.register_buffer("inverse", torch.eye(features, dtype=torch.float64) / ridge)
        self.register_buffer("weight", torch.zeros(features, classes, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int64))

    def add(self, h: Tensor, y: Tensor) -> None:
        """Count rows h (B, M) of classes y (B,) in."""
        h = h.double()
        hr = h @ self.inverse  # (B, M) H R
        inner = hr @ h.T  # (B, B) H R Hᵀ
        inner.diagonal().add_(1)
        # R ← R − R Hᵀ (I + H R Hᵀ)⁻¹ H R; what is inverted is at least I, so that nobody waits for a check of it
        self.inverse -= hr.T @ torch.linalg.solve_ex(inner, hr)[0]
        self.inverse.copy_((self.inverse + self.inverse.T) / 2)  # rounding would make it ever less symmetric
        targets = F.one_hot(y, self.weight.shape[1])
        self.weight += (h @ self.inverse).T @ (targets.double() - h @ self.weight)  # with the new R
        self.counts += targets.sum(0)


class AnalyticHead(Expanded, OnePass):
    """Learns W on random features of the stream, each example once."""

    state = ("random", "ridge")
    parallel = True

    def __init__(self, projection: int, gamma: float) -> None:
        self.projection, self.gamma = projection, gamma

    def setup(self, run: Run) -> None:
        width = self.draw(run, self.projection, "uniform")
        self.ridge = Recursive(width, run.num_classes, self.gamma).to(run.device)

    def count(self, features: Tensor, y: Tensor) -> None:
        self.ridge.add(self.random(features), y)

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        scores = self.expanded(x) @ self.ridge.weight.float()
        return self.run.mask_tasks(scores.masked_fill(self.ridge.counts == 0, MASKED), task)


@register("acil", family="fixed features", paper="arXiv:2205.14922", tiny={"projection": 64})
def acil(projection: Natural = 2000, gamma: Positive = 0.1) -> Strategy:
    """ACIL: a ridge regression on random features of a backbone that stays as it is, exact after every batch.

    It needs neither boundaries nor memory, and the order of the examples makes no difference: after each batch, its
    weights are those of one regression on all examples so far. The strongest cheap baseline for streams that blur.

    Args:
        projection: random features relu(φ V), V uniform in ±1/√D; 0 takes the features themselves.
        gamma: strength of the ridge.

    Reference: Zhuang, Weng, Wei, Xie, Toh, Lin, "ACIL: Analytic Class-Incremental Learning with Absolute Memorization
    and Privacy Protection", NeurIPS 2022, arXiv:2205.14922; by batches, Zhuang et al., "GACL: Exemplar-Free Generalized
    Analytic Continual Learning", NeurIPS 2024, arXiv:2403.15706.

    Differences from the papers:
        1. The backbone is pretrained; none is trained on half of the classes first.
        2. 2,000 random features, where they have 5,000 to 16,384: R grows with the square.
        3. Every example counts once; GACL's script passes each batch three times, which is γ/3 with one pass.
    """
    return chain(TrainOnly(), AnalyticHead(projection, gamma))
