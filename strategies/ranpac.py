"""RanPAC: ridge regression on random projections of a pretrained backbone's features.

McDonnell, Gong, Parvaneh, Abbasnejad, van den Hengel, "RanPAC: Random Projections and Pre-trained Models for Continual
Learning", NeurIPS 2023, arXiv:2307.02251.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Experience, Run, Strategy, chain, register
from clbench.parts import (
    Adaptation,
    Expanded,
    Gram,
    LowRankTuning,
    Settling,
    TrainOnly,
    adapt_first,
    features_of,
)
from clbench.ranges import Count, Natural, Positive
from clbench.types import MASKED

GRID = tuple(10.0**k for k in range(-8, 9))
"""The strengths of the ridge that are tried."""


def validation_losses(h: Tensor, y: Tensor, classes: int) -> Tensor:
    """(17,) for each λ of `GRID`, the mean squared error on the last fifth of rows h (N, M), of classes y (N,).

    The first ⌊0.8 N⌋ rows are fitted. One decomposition serves all λ, of HᵀH or of HHᵀ, whichever is smaller.
    """
    n = int(0.8 * len(h))
    fitted, held = h[:n], h[n:]
    targets = F.one_hot(y, classes).to(h.dtype)
    wide = fitted.shape[1] > n
    values, vectors = torch.linalg.eigh(fitted @ fitted.T if wide else fitted.T @ fitted)
    # Predictions are A diag(1 / (Λ + λ)) B, for the weights (HᵀH + λ)⁻¹ HᵀY = Hᵀ (HHᵀ + λ)⁻¹ Y.
    left = (held @ fitted.T if wide else held) @ vectors
    right = vectors.T @ (targets[:n] if wide else fitted.T @ targets[:n])
    return torch.stack(
        [(left @ (right / (values + ridge).unsqueeze(1)) - targets[n:]).square().mean() for ridge in GRID]
    )


def branched(run: Run) -> bool:
    """Whether another part of a run's chain tunes low-rank branches."""
    return any(isinstance(part, LowRankTuning) for part in run.strategy.parts)


class Still(TrainOnly):
    """The network stays as it is; where another part tunes low-rank branches, after it has learned the first
    experience."""

    needs = frozenset({"boundaries"})
    parallel = True
    capturable = True

    def wrap(self, model: nn.Module) -> nn.Module:
        if not branched(self.run):
            return super().wrap(model)
        model.backbone = Settling(model.backbone)  # type: ignore[arg-type]
        return model

    def begin_experience(self, exp: Experience) -> None:
        for module in self.run.model.modules() if exp.index > 0 else ():
            if isinstance(module, Settling):
                module.settle()


class RandomRidge(Expanded):
    """At an experience's end, counts its examples in and solves for the weights of all so far.

    Args:
        projection: M; 0 takes the features themselves. ridge: λ; None selects it at every experience.
        adapted: that the network learns the first experience, in which its own head predicts; so it does where another
            part tunes low-rank branches.
    """

    needs = frozenset({"boundaries"})
    state = ("random", "gram", "weight", "seen", "ridge")
    parallel = True

    def __init__(self, projection: int, ridge: float | None, adapted: bool) -> None:
        self.projection, self.fixed, self.adapted = projection, ridge, adapted

    def setup(self, run: Run) -> None:
        self.adapted = self.adapted or branched(run)
        width = self.draw(run, self.projection, "normal")
        self.gram = Gram(width, run.num_classes).to(run.device)
        self.weight = torch.zeros_like(self.gram.products)  # (M, C)
        self.seen = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)
        self.ridge = 1.0 if self.fixed is None else self.fixed

    def end_experience(self, exp: Experience) -> None:
        features, y = features_of(self.run, exp.data)
        h = self.random(features)  # (N, M)
        if self.fixed is None and len(y) > 1:
            generator = self.run.rng("validation")
            rows = torch.randperm(len(y), generator=generator, device=generator.device)
            losses = validation_losses(h[rows], y[rows], self.run.num_classes)
            self.ridge = GRID[int(losses.argmin())]
        self.gram.add(h, y)
        self.weight = self.gram.solve(self.ridge)
        self.seen[y.unique()] = True

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        if self.adapted and not self.seen.any():
            return self.run.forward(x, task).logits
        scores = self.expanded(x) @ self.weight.float()
        return self.run.mask_tasks(scores.masked_fill(~self.seen, MASKED), task)


@register("ranpac", family="fixed features", paper="arXiv:2307.02251", tiny={"projection": 64})
def ranpac(
    projection: Natural = 4000,
    ridge: Positive | None = None,
    adapt: Adaptation = "none",
    size: Count | None = None,
    head: Positive = 1.0,
) -> Strategy:
    """RanPAC: a ridge regression on random projections of a backbone that stays as it is, solved at experience ends.

    Behind a strategy that tunes low-rank branches, `lora+ranpac`, these and its head learn the first experience; then
    the network stays, and the ridge regression predicts.

    Args:
        projection: random features relu(φ W), W normal; 0 takes the features themselves.
        ridge: λ; if none is given, the power of ten from 10⁻⁸ to 10⁸ with the least squared error on a fifth of the
            experience's examples, fitted on the others. An experience of one example keeps the last one.
        adapt: what learns the first experience, by cross-entropy on σ · cos(φ, w_c) and with the run's optimizer: none;
            adapter, a bottleneck beside each perceptron, of the residual; ssf, scales and shifts behind every layer;
            vpt and vpt-shallow, tokens in every block or at the start; lora, low-rank branches of q and v; finetune,
            all weights. The network stays as it is afterwards, so that `later_epochs=1` saves passes. The authors':
            `optim.name=sgd lr=0.01 momentum=0.9 weight_decay=5e-4 schedule=cosine batch_size=48 epochs=20`.
        size: of a bottleneck, 64 if none is given; a rank, 8; tokens, 5.
        head: factor on the learning rate of the head that adapts.

    Reference: McDonnell, Gong, Parvaneh, Abbasnejad, van den Hengel, "RanPAC: Random Projections and Pre-trained Models
    for Continual Learning", NeurIPS 2023, arXiv:2307.02251.

    Differences from the paper:
        1. 4,000 random features, where it has 10,000, of 768 features: MiniLM's are 384.
        2. Nothing is adapted by default, where it trains adapters, scales or prompts, by data set.
        3. Until an experience ends, its classes cannot be predicted; in the first one, an adapted network's head does.
    """
    ridged = RandomRidge(projection, ridge, adapt != "none")
    return chain(Still() if adapt == "none" else adapt_first(adapt, size, head), ridged)
