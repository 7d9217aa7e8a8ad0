"""Nearest class mean on features that stay as they are.

Mensink, Verbeek, Perronnin, Csurka, "Distance-Based Image Classification: Generalizing to New Classes at Near-Zero
Cost", TPAMI 2013.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Output, Run, Strategy, chain, register
from clbench.parts import TrainOnly, add_rows, nearness


class NearestMean(Strategy):
    """Keeps the sum of each class's features and predicts the class whose mean is nearest.

    Inputs come as they are, not augmented; the backbone must stay as it is.
    """

    state = ("sums", "counts")
    parallel = True

    def __init__(self, cosine: bool) -> None:
        self.cosine = cosine

    def setup(self, run: Run) -> None:
        features: int = run.model.feature_size  # type: ignore[assignment]
        self.sums = torch.zeros((run.num_classes, features), device=run.device)  # (C, D)
        self.counts = torch.zeros(run.num_classes, device=run.device)  # (C,)

    def extend(self, batch: Batch) -> Batch:
        return batch.with_x(self.run.normalise(batch.raw))

    def after_step(self, batch: Batch, out: Output) -> None:
        features, y = batch.firsts(out.features), batch.firsts(batch.y)
        add_rows(self.sums, y, self._scaled(features))
        add_rows(self.counts, y, torch.ones_like(features[:, 0]))

    def _scaled(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=1) if self.cosine else features

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        features = self._scaled(self.run.forward(x, task).features)
        means = self._scaled(self.sums / self.counts.clamp(min=1).unsqueeze(1))  # (C, D)
        return self.run.mask_tasks(nearness(features, means, self.counts > 0), task)


@register("ncm", family="fixed features")
def ncm(cosine: bool = False) -> Strategy:
    """Nearest class mean: nothing is trained; the class whose mean feature is nearest wins.

    A baseline for whatever starts from a pretrained backbone, and immune to forgetting: a class's mean stays.

    Args:
        cosine: whether features and means are scaled to length 1 first.

    Reference: Mensink, Verbeek, Perronnin, Csurka, "Distance-Based Image Classification: Generalizing to New Classes at
    Near-Zero Cost", TPAMI 2013.

    Differences from the paper:
        1. The distance is Euclidean; no metric is learned.
        2. The means come from the examples as they are, not augmented; further epochs change nothing but rounding.
    """
    return chain(TrainOnly(), NearestMean(cosine))
