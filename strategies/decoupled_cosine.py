"""Decoupled cosine classification.

Zhang et al., "Few-Shot Incremental Learning with Continually Evolved Classifiers", CVPR 2021, arXiv:2104.03047.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from clbench import Experience, Run, Strategy, chain, register
from clbench.parts import LearnFirst, Normalised, SettleAfterFirst, feature_sums
from clbench.ranges import Positive


class Prototypes(Strategy):
    """When an experience ends, each class that is new with it gets its mean feature as weight of the head.

    Args:
        base: whether the first experience's classes keep their learned weights or get their means as well.
    """

    needs = frozenset({"boundaries"})
    parallel = True

    def __init__(self, base: Literal["learned", "means"]) -> None:
        self.base = base

    def setup(self, run: Run) -> None:
        self.learned = next(part for part in run.strategy.parts if isinstance(part, LearnFirst))

    @torch.no_grad()
    def end_experience(self, exp: Experience) -> None:
        head = self.learned.head
        if exp.index == 0:
            new = torch.zeros_like(head.seen)
            new[list(exp.classes)] = self.base == "means"
        else:
            new = ~head.seen
        sums, counts = feature_sums(self.run, exp.data)
        new = new & (counts > 0)  # (C,)
        weight: Tensor = head.weight  # (C, D)
        weight.copy_(torch.where(new.unsqueeze(1), sums / counts.clamp(min=1).unsqueeze(1), weight))
        self.learned.admit(new.nonzero().flatten().tolist())  # a class without an example has no weight


@register("decoupled-cosine", family="few-shot", paper="arXiv:2104.03047")
def decoupled_cosine(temperature: Positive = 16.0, base: Literal["learned", "means"] = "learned") -> Strategy:
    """Decoupled cosine: a cosine classifier is trained in the first experience; later classes get their mean features.

    Scores are T · cos(features, weights). From the first experience's end on nothing is trained: the backbone stays as
    it is, in eval mode, and the weight of a new class is the mean feature of its examples.

    Args:
        temperature: T; 16 in the authors' code.
        base: base classes keep their learned weights, or get their mean features, too, as in the authors' code after
            pretraining.

    Reference: the baseline of that name in Zhang et al., "Few-Shot Incremental Learning with Continually Evolved
    Classifiers", CVPR 2021, arXiv:2104.03047.

    Differences from the authors' code:
        1. No epoch is chosen by the test set; the last one counts.
        2. A class that comes again keeps its weight.
    """
    return chain(SettleAfterFirst(), Normalised(temperature), LearnFirst(), Prototypes(base))
