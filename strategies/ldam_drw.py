"""Label-distribution-aware margins with deferred re-weighting (LDAM-DRW).

Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019, arXiv:1906.07413.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Strategy, chain, register
from clbench.parts import Counts, CrossEntropy, GrowingHead, Normalised, PlainRows, RowLoss
from clbench.ranges import Fraction, Natural, NotNegative, Positive


class Margins(Counts, RowLoss):
    """LDAM: each row's own score is lowered by its class's margin, all are multiplied by s; rare classes count more
    late.

    Args:
        margin: that of the rarest class.
        scale: s.
        defer: passes over an experience before rows are weighted.
        beta: β in `effective_weights`.
    """

    replaces = (CrossEntropy, PlainRows)
    parallel = True

    def __init__(self, margin: float, scale: float, defer: int, beta: float) -> None:
        self.margin, self.scale, self.defer, self.beta = margin, scale, defer, beta

    def scores(self, logits: Tensor, y: Tensor) -> Tensor:
        own = F.one_hot(y, logits.shape[1]) * ldam_margins(self.n, self.margin)  # (B, C)
        return self.scale * (logits - own)

    def weight(self) -> Tensor:
        return effective_weights(self.n, self.beta if self.run.epoch >= self.defer else 0.0)


def ldam_margins(n: Tensor, largest: float) -> Tensor:
    """(C,) m_c = m · n_c^−¼ / max_k n_k^−¼ of counts (C,); 0 for a class without an example."""
    root = torch.where(n > 0, n.double().clamp(min=1) ** -0.25, 0.0)
    return (largest * root / root.max()).to(n.dtype)


def effective_weights(n: Tensor, beta: float) -> Tensor:
    """(C,) (1 − β) / (1 − β^n_c) of counts (C,), scaled to mean 1 over the classes with examples; 0 for others."""
    there = n > 0
    few = n.double().clamp(min=1)  # in single precision 1 − β and 1 − β^n would be rounded away
    weight = torch.where(there, (1 - beta) / (1 - beta**few), 0.0)
    return (weight * there.sum() / weight.sum()).to(n.dtype)


@register("ldam-drw", family="rare classes", paper="arXiv:1906.07413", modifier=True)
def ldam_drw(
    margin: NotNegative = 0.5, scale: Positive = 30.0, defer: Natural = 160, beta: Fraction = 0.9999
) -> Strategy:
    """LDAM-DRW: rare classes get larger margins from the start and larger weights late, in place of cross-entropy.

    ℓ = w_y CE(s (z − m_y 1_y), y) with cosines z, m_c = m n_c^−¼ / max_k n_k^−¼, and, from pass `defer` of an
    experience on, w_c = (1 − β) / (1 − β^n_c), scaled to mean 1; the mean over rows is weighted. Around any other
    strategy.

    Args:
        margin: m, that of the rarest class.
        scale: s.
        defer: passes over an experience with equal weights; 160 of 200 in both papers' code. Set it with the epochs.
        beta: β.

    Reference: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019,
    arXiv:1906.07413; for few-shot streams Kim et al., ICCV-W 2025, arXiv:2503.10003.

    Differences from the authors' code:
        1. The weights of the cosine head begin as those of the linear one.
        2. n_c is the most examples of class c that an experience has brought.
        3. Kim et al. learn their base session by cross-entropy; here LDAM is for every experience.
        4. Weights stay from pass `defer` on, however many follow; Kim et al.'s code ends at 640.
    """
    return chain(Normalised(), GrowingHead(), Margins(margin, scale, defer, beta))
