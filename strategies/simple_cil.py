"""SimpleCIL: the cosine to class means of a pretrained backbone that stays as it is.

Zhou, Cai, Ye, Zhan, Liu, "Revisiting Class-Incremental Learning with Pre-Trained Models: Generalizability and
Adaptivity Are All You Need", IJCV 2024, arXiv:2303.07338.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from clbench import Run, Strategy, chain, register
from clbench.parts import ClassSums, OnePass, TrainOnly
from clbench.types import MASKED


class CosinePrototypes(OnePass):
    """Predicts the class whose mean feature has the largest cosine: means are of features as they are."""

    state = ("classes",)
    parallel = True

    def setup(self, run: Run) -> None:
        self.classes = ClassSums(run.num_classes, run.model.feature_size).to(run.device)  # type: ignore[arg-type]

    def count(self, features: Tensor, y: Tensor) -> None:
        self.classes.add(features, y)

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        cosines = scores(self.run.forward(x, task).features, self.classes)
        return self.run.mask_tasks(cosines.masked_fill(~self.classes.known, MASKED), task)


def scores(features: Tensor, classes: ClassSums) -> Tensor:
    """(B, C) cosines of features (B, D) and class means, in the precision of the features."""
    return F.normalize(features, dim=1) @ F.normalize(classes.means(), dim=1).to(features.dtype).T


@register("simple-cil", family="fixed features", paper="arXiv:2303.07338")
def simple_cil() -> Strategy:
    """SimpleCIL: nothing is trained; the class whose mean feature has the largest cosine wins.

    What a pretrained backbone gives by itself, which whatever trains it must beat. It differs from `ncm` with
    `cosine=true`, where every feature is scaled to length 1 before the mean; on features of length 1 they are the same.

    Reference: Zhou, Cai, Ye, Zhan, Liu, "Revisiting Class-Incremental Learning with Pre-Trained Models:
    Generalizability and Adaptivity Are All You Need", IJCV 2024, arXiv:2303.07338.

    Differences from the authors' code:
        1. A class that comes again has the mean of all its examples; there, the last experience's takes its place.
    """
    return chain(TrainOnly(), CosinePrototypes())
