"""Balanced softmax.

Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020, arXiv:2007.10740.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench import Strategy, chain, register
from clbench.parts import Counts, CrossEntropy, GrowingHead, PlainRows, RowLoss
from clbench.types import MASKED


class BalancedSoftmax(Counts, RowLoss):
    """Cross-entropy of logits that are shifted by the logarithm of each class's share of the examples."""

    replaces = (CrossEntropy, PlainRows)
    parallel = True

    def scores(self, logits: Tensor, y: Tensor) -> Tensor:
        return logits + log_prior(self.n)


def log_prior(n: Tensor) -> Tensor:
    """(C,) ln n_c / Σ n of counts (C,); `MASKED` for a class without an example, which is then out of the question."""
    share = n.double() / n.sum()
    return torch.where(n > 0, share.log(), MASKED).to(n.dtype)


@register("balanced-softmax", family="rare classes", paper="arXiv:2007.10740", modifier=True)
def balanced_softmax() -> Strategy:
    """Cross-entropy of logits shifted by the logarithm of each class's share of the examples; prediction is not
    shifted.

    ℓ = CE(z + ln(n / Σ n), y), n_c the examples of class c, over the classes seen; in place of the cross-entropy of any
    other strategy. `joint+restart+balanced-softmax` is joint training for streams of few shots.

    Reference: Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020, arXiv:2007.10740;
    for few-shot streams Kim et al., ICCV-W 2025, arXiv:2503.10003.

    Differences from Kim et al.'s code:
        1. n_c is counted: the most examples of class c that an experience has brought, so that it holds without joint
           training, too; there it is base examples over base classes, and the shots.
        2. The first experience is learned by it as well; with equally many examples of each class it is cross-entropy.
    """
    return chain(GrowingHead(), BalancedSoftmax())
