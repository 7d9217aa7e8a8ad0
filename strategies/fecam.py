"""FeCAM: the class whose mean is nearest by a distance that its own covariance shapes.

Goswami, Liu, Twardowski, van de Weijer, "FeCAM: Exploiting the Heterogeneity of Class Distributions in Exemplar-Free
Continual Learning", NeurIPS 2023, arXiv:2309.14062.
"""

from __future__ import annotations

import functools
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Experience, Run, Strategy, chain, register
from clbench.errors import DataError, IncompatibleError
from clbench.parts import ClassMoments, ClassSums, OnePass, TrainOnly, once
from clbench.ranges import NotNegative, Positive
from clbench.types import MASKED


def ladder(features: Tensor, beta: float) -> Tensor:
    """(B, D) φ^β, Tukey's transformation, which makes skewed features more normal.

    Raises:
        IncompatibleError: a feature is negative, and a power of it no number.
    """
    if (features < 0).any():
        raise IncompatibleError(
            "fecam with beta takes powers of the features, and this network's may be negative; leave out beta, which "
            "scales features to length 1 in place of it, or take a network that ends with ReLU."
        )
    return features**beta


def shrunk(covariance: Tensor, gamma1: float, gamma2: float) -> Tensor:
    """(D, D) Σ + γ₁ V₁ I + γ₂ V₂ (1 − I), V₁ the mean variance, V₂ the mean covariance of those that are not 0."""
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    off = covariance * (1 - eye)
    second = off.sum() / (off != 0).sum().clamp(min=1)
    return covariance + gamma1 * covariance.diagonal().mean() * eye + gamma2 * second * (1 - eye)


def correlations(covariance: Tensor) -> Tensor:
    """(D, D) Σ_ij / (σ_i σ_j); a feature that never changes is correlated with none."""
    deviations = covariance.diagonal().clamp(min=0).sqrt()
    scale = torch.outer(deviations, deviations)
    found = torch.where(scale > 0, covariance / scale, 0.0)
    found.diagonal().fill_(1)
    return found


class Metric(nn.Module):
    """What the distances of one class follow from.

    Args:
        mean: (D,). inverse: (D, D), the pseudo-inverse of its correlations.
    """

    mean: Tensor
    inverse: Tensor

    def __init__(self, mean: Tensor, inverse: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("inverse", inverse)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) → (B,) squared distances."""
        away = features.double() - self.mean
        return ((away @ self.inverse) * away).sum(1).clamp(min=0)


def inverse_of(correlation: Tensor) -> Tensor:
    """(D, D) the pseudo-inverse, which is the inverse unless shrinkage leaves the matrix singular."""
    factor, failed = torch.linalg.cholesky_ex(correlation)
    inverse: Tensor = (
        torch.linalg.pinv(correlation, hermitian=True) if failed else torch.cholesky_inverse(factor)
    )
    return inverse


class Mahalanobis(OnePass):
    """Predicts the class with the smallest distance; classes of the present experience join when it ends.

    Args:
        beta: of Tukey's ladder, for features that are not negative; None scales features to length 1.
        gamma1, gamma2: of the shrinkage. shrinks: how often it is applied.
    """

    needs = frozenset({"boundaries"})
    state = ("moments", "raw", "means", "inverses", "joined")
    parallel = True
    exempt: ClassVar[dict[str, str]] = {
        "odd_batches": "a class of one example has no covariance, and is refused"
    }

    def __init__(self, beta: float | None, gamma1: float, gamma2: float, shrinks: int) -> None:
        self.beta, self.gamma1, self.gamma2, self.shrinks = beta, gamma1, gamma2, shrinks

    def setup(self, run: Run) -> None:
        classes, size = run.num_classes, int(run.model.feature_size)  # type: ignore[arg-type]
        counts = torch.zeros(classes, dtype=torch.int64)
        for i, exp in enumerate(run.train):
            counts += torch.bincount(exp.data.y(), minlength=classes)
            lone = (counts == 1).nonzero().squeeze(1).tolist()
            if lone:
                names = run.benchmark.class_names
                raise DataError(
                    f"fecam needs a covariance of each class, and class {names[lone[0]] if names else lone[0]} of "
                    f"{run.benchmark.id} has one training example by the end of experience {i + 1}. Shrinkage is no "
                    "way out: it adds multiples of the mean variance and covariance, which are 0 there. Leave out such "
                    "classes, or take simple-cil or ranpac."
                )
        self.waits = 2 + max(
            len(exp.classes) for exp in run.train
        )  # for which classes a batch has, and their rows
        self.moments = ClassMoments(classes, size).to(run.device)  # of transformed features
        self.raw = ClassSums(classes, size).to(run.device)
        self.joined: list[int] = []  # classes that have a mean and a covariance
        self.means = torch.zeros(classes, size, dtype=torch.float64, device=run.device)
        self.inverses = torch.zeros(classes, size, size, dtype=torch.float64, device=run.device)
        self._metrics: dict[int, Metric] = {}

    def transformed(self, features: Tensor) -> Tensor:
        """(B, D) → (B, D), of which means and covariances are taken."""
        return F.normalize(features, dim=1) if self.beta is None else ladder(features, self.beta)

    def count(self, features: Tensor, y: Tensor) -> None:
        features = features.double()
        self.raw.add(features, y)
        self.moments.add(self.transformed(features), y)

    def end_experience(self, exp: Experience) -> None:
        raw, means = self.raw.means(), self.moments.means()
        for c in exp.classes:
            covariance = self.moments.covariance(c)
            for _ in range(self.shrinks):
                covariance = shrunk(covariance, self.gamma1, self.gamma2)
            self.inverses[c] = inverse_of(correlations(covariance))
            self.means[c] = means[c] if self.beta is None else self.asked(raw[c : c + 1])[0]
        self.joined += [c for c in exp.classes if c not in self.joined]

    def asked(self, features: Tensor) -> Tensor:
        """(B, D) → (B, D), of which distances are taken."""
        unit = F.normalize(features, dim=1)
        return unit if self.beta is None else F.normalize(ladder(unit, self.beta), dim=1)

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        scores = torch.full((len(x), self.run.num_classes), MASKED, dtype=torch.float64, device=x.device)
        for c in self.joined:
            distances = once(f"distances {c}", self._metric(c), x, functools.partial(self._distances, c))
            scores[:, c] = -distances.log1p()  # in the same order, and above what is masked
        return self.run.mask_tasks(scores, task)

    def _metric(self, c: int) -> Metric:
        """Return what the distances of a class follow from, beside the backbone, which stays as it is."""
        known = self._metrics.get(c)
        if (
            known is None or known.mean.data_ptr() != self.means[c].data_ptr()
        ):  # a checkpoint brings other tensors
            known = self._metrics[c] = Metric(self.means[c], self.inverses[c])
        return known

    def _distances(self, c: int, x: Tensor) -> Tensor:
        distances: Tensor = self._metric(c)(self.asked(self.run.forward(x).features.double()))
        return distances


@register("fecam", family="fixed features", paper="arXiv:2309.14062")
def fecam(
    beta: Positive | None = None,
    gamma1: NotNegative = 1.0,
    gamma2: NotNegative = 0.0,
    shrinks: Literal[1, 2] = 1,
) -> Strategy:
    """FeCAM: the class whose mean is nearest by a Mahalanobis distance of its own, on features that stay as they are.

    Needs more examples of each class than shrinkage can stand in for: some dozens.

    Args:
        beta: exponent of Tukey's ladder, 0.5 in the paper, for features that are not negative, such as a ResNet's; if
            none is given, features are scaled to length 1, as the paper does with transformers.
        gamma1: how many mean variances are added to the variances.
        gamma2: how many mean covariances are added to the covariances.
        shrinks: how often that is done; the authors' code does it twice with beta.

    Reference: Goswami, Liu, Twardowski, van de Weijer, "FeCAM: Exploiting the Heterogeneity of Class Distributions in
    Exemplar-Free Continual Learning", NeurIPS 2023, arXiv:2309.14062.

    Differences from the authors' code:
        1. The backbone is pretrained, and stays as it is; theirs trains a ResNet on the first experience, in which the
           rows of its head are the means.
        2. Covariances are from one pass of sums in float64, so that a class may come in several experiences.
        3. Scores are −log(1 + d) for the distance d, which puts classes in the same order.
    """
    return chain(TrainOnly(), Mahalanobis(beta, gamma1, gamma2, shrinks))
