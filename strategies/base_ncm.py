"""Nearest class mean on features of a model that was trained in the first experience.

Mensink, Verbeek, Perronnin, Csurka, "Distance-Based Image Classification: Generalizing to New Classes at Near-Zero
Cost", TPAMI 2013.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Experience, Run, Strategy, chain, register
from clbench.parts import LearnFirst, SettleAfterFirst, feature_sums, nearness


class Means(Strategy):
    """The mean feature of every class, as soon as an experience that has brought it ends; the nearest one is predicted.

    Until the first experience has ended the model's head predicts.
    """

    needs = frozenset({"boundaries"})
    state = ("sums", "counts", "ended")
    parallel = True

    def __init__(self, cosine: bool) -> None:
        self.cosine = cosine

    def setup(self, run: Run) -> None:
        features: int = run.model.feature_size  # type: ignore[assignment]
        self.sums = torch.zeros((run.num_classes, features), device=run.device)  # (C, D)
        self.counts = torch.zeros(run.num_classes, device=run.device)  # (C,)
        self.ended = False

    def end_experience(self, exp: Experience) -> None:
        sums, counts = feature_sums(self.run, exp.data, lengths_one=self.cosine)
        self.sums, self.counts, self.ended = self.sums + sums, self.counts + counts, True

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        out = self.run.forward(x, task)
        if not self.ended:
            return out.logits
        means = self.sums / self.counts.clamp(min=1).unsqueeze(1)  # (C, D)
        features = out.features
        if self.cosine:
            features, means = F.normalize(features, dim=1), F.normalize(means, dim=1)
        return self.run.mask_tasks(nearness(features, means, self.counts > 0), task)


@register("base-ncm", family="few-shot")
def base_ncm(cosine: bool = False) -> Strategy:
    """Nearest class mean after base training: the first experience trains the network, means of features do the rest.

    As `ncm`, which trains nothing and so needs a pretrained backbone. From the first experience's end on the backbone
    stays as it is, in eval mode, and every class is the mean feature of its examples, base classes too.

    Args:
        cosine: whether features and means are scaled to length 1 first.

    Reference: Mensink, Verbeek, Perronnin, Csurka, "Distance-Based Image Classification: Generalizing to New Classes at
    Near-Zero Cost", TPAMI 2013.

    Differences from the paper:
        1. The distance is Euclidean; no metric is learned. The features are those of cross-entropy on the base classes.
        2. The means come from the examples as they are, not augmented.
    """
    return chain(SettleAfterFirst(), LearnFirst(), Means(cosine))
