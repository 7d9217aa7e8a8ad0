"""Balanced loss: cross-entropy with rows weighted by the inverse of their class's frequency."""

from __future__ import annotations

import torch
from torch import Tensor

from clbench import Strategy, chain, register
from clbench.parts import Counts, CrossEntropy, GrowingHead, PlainRows, RowLoss


class InverseWeights(Counts, RowLoss):
    """Cross-entropy whose rows are weighted by the inverse of their class's number of examples."""

    replaces = (CrossEntropy, PlainRows)
    parallel = True

    def weight(self) -> Tensor:
        return inverse_weights(self.n)


def inverse_weights(n: Tensor) -> Tensor:
    """(C,) 1 / n_c of counts (C,), scaled to a sum of 1; 0 for a class without an example."""
    inverse = torch.where(n > 0, 1 / n.double().clamp(min=1), 0.0)
    return (inverse / inverse.sum()).to(n.dtype)


@register("balanced-loss", family="rare classes", paper="arXiv:2503.10003", modifier=True)
def balanced_loss() -> Strategy:
    """Cross-entropy in which a row counts by the inverse of its class's number of examples.

    The weighted mean over rows of CE(z, y), w_c = (1 / n_c) / Σ_k 1 / n_k over the classes seen; in place of the
    cross-entropy of any other strategy, as in `joint+restart+balanced-loss`.

    Reference: Kim et al., "Does Prior Data Matter? Exploring Joint Training in the Context of Few-Shot
    Class-Incremental Learning", ICCV-W 2025, arXiv:2503.10003, where it is one of the components.

    Differences from the authors' code:
        1. n_c is counted: the most examples of class c that an experience has brought.
        2. The first experience is learned by it as well; with equally many examples of each class it is cross-entropy.
    """
    return chain(GrowingHead(), InverseWeights())
