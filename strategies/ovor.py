"""Virtual outlier regularization, of "OVOR: OnePrompt with Virtual Outlier Regularization for Rehearsal-Free
Class-Incremental Learning".

Huang et al., ICLR 2024, arXiv:2402.04129.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Run, Strategy, register
from clbench.errors import IncompatibleError
from clbench.parts import FeatureHead, SeenOutputs, Teacher, quarter_cosine
from clbench.ranges import Count, Natural, NotNegative, Real

Variant = Literal["paper", "as_released"]
Thresholds = Literal["fixed", "measured"]
DISTANCES = 1 << 24
"""Distances held at once while neighbours are looked for: 64 MiB."""


class VirtualOutliers(Strategy):
    """When an experience ends, the head alone is trained on, against features that no example has.

    `energy` is λ times the mean of Huber(relu(E − m_in)) over features and of Huber(relu(m_out − E)) over outliers,
    with E(f) = −ln Σ exp z_c(f) over the present classes; beside the losses that the chain has on the features.
    """

    needs = frozenset({"boundaries"})
    from_start = True  # the first experience, too, ends with it
    parallel = True

    def __init__(
        self,
        epochs: int,
        variant: Variant,
        strength: float,
        margins: tuple[float, float],
        thresholds: Thresholds,
        neighbours: int,
        boundary: int,
        draws: int,
        noise: float,
        per_class: int,
        batch_size: int,
    ) -> None:
        self.epochs, self.variant, self.strength = epochs, variant, strength
        self.fixed, self.thresholds = margins, thresholds
        self.neighbours, self.boundary, self.draws = neighbours, boundary, draws
        self.noise, self.per_class, self.batch_size = noise, per_class, batch_size
        self.outliers: Tensor | None = None  # of the present batch (n, D); only while the head is trained on

    def setup(self, run: Run) -> None:
        head = run.model.head
        while hasattr(head, "inner"):
            if not isinstance(head, FeatureHead | SeenOutputs):
                raise IncompatibleError(
                    f"{self} trains a head of features alone, and that of {run.strategy} ({type(head).__name__}) asks "
                    "for more of an image; leave ovor out."
                )
            head = head.inner
        for part in run.strategy.parts:
            if isinstance(part, Teacher) or "teacher" in part.state:
                raise IncompatibleError(
                    f"{run.strategy} has a teacher, which is asked about images, and ovor trains the head on features; "
                    "leave one of them out."
                )

    def end_experience(self, exp: Experience) -> None:
        run, optim = self.run, self.run.config.optim
        self.present = sorted(set(exp.data.y().tolist()))
        self.margins: tuple[Tensor | float, Tensor | float] | None = None
        regular = run.config.train.epochs if run.config.train.iterations is None else 1
        total = regular + self.epochs
        kept = ("name", "momentum", "nesterov", "betas", "weight_decay", "clip")
        run.optimise(
            lambda epoch: self._batches(exp),
            self.epochs,
            lambda epoch: optim.lr * quarter_cosine(regular + epoch, total),
            features=True,
            **{name: getattr(optim, name) for name in kept},
        )
        self.outliers = None

    def _batches(self, exp: Experience) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One pass: features of the experience's augmented examples, as the network now sees them, with outliers."""
        run, rng = self.run, self.run.rng("ovor")
        features, y = self._features(exp)
        size = self.feature_size(features)
        outliers = self.generate(features[:, :size])
        outliers = F.pad(outliers, (0, features.shape[1] - size))
        if self.margins is None:
            self.margins = self.fixed if self.thresholds == "fixed" else self.measured(features, outliers)
        order = torch.randperm(len(y), generator=rng, device=run.device).split(self.batch_size)
        share = max(len(outliers) // len(order), 1)
        for i, rows in enumerate(order):
            at = torch.arange(i * share, (i + 1) * share, device=run.device) % len(outliers)
            self.outliers = outliers[at]
            yield features[rows], y[rows], torch.full_like(y[rows], exp.task)

    def feature_size(self, features: Tensor) -> int:
        """D: the columns that the head sees."""
        sizes = [m.size for m in self.run.model.modules() if isinstance(m, FeatureHead)]
        return min([*sizes, features.shape[1]])

    def _features(self, exp: Experience) -> tuple[Tensor, Tensor]:
        """(N, D) features of an experience's examples, augmented, as for prediction; and their labels (N,)."""
        run, found, labels = self.run, [], []
        with run.evaluating(), torch.no_grad():
            for rows in torch.arange(len(exp)).split(run.batch_size):
                raw, y = exp.data.take(rows)
                x = run.benchmark.transform.train(raw.to(run.device), run.rng("ovor/augment"))
                found.append(run.forward(x).features)
                labels.append(y.to(run.device))
        return torch.cat(found), torch.cat(labels)

    def generate(self, features: Tensor) -> Tensor:
        """(n, D) outliers of features (N, D)."""
        count, rng = self.per_class * len(self.present), self.run.rng("ovor")
        make = released_outliers if self.variant == "as_released" else paper_outliers
        return make(features, count, self.neighbours, self.boundary, self.draws, self.noise, rng)

    @torch.no_grad()
    def measured(self, features: Tensor, outliers: Tensor) -> tuple[Tensor, Tensor]:
        """Return quartiles of present energies: the lower one of features, less 0.1, and the upper one of outliers."""
        inside, outside = (energy(self.run.logits(rows), self.present) for rows in (features, outliers))
        return inside.quantile(0.25) - 0.1, outside.quantile(0.75)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if self.outliers is None or self.margins is None:
            return {}
        inside = energy(self.run.logits(batch.x), self.present)
        outside = energy(self.run.logits(self.outliers), self.present)
        return {"energy": self.strength * energy_loss(inside, outside, *self.margins)}

    def gradients(self) -> None:
        """While the head is trained on, nothing else has a gradient, so that no optimizer moves it."""
        if self.outliers is None:
            return
        for name, parameter in self.run.model.named_parameters():
            if not name.startswith("head."):
                parameter.grad = None


def energy(logits: Tensor, classes: list[int]) -> Tensor:
    """Return −ln Σ exp z_c (B,) over some classes for logits (B, C)."""
    return -logits[:, classes].logsumexp(dim=1)


def energy_loss(inside: Tensor, outside: Tensor, m_in: Tensor | float, m_out: Tensor | float) -> Tensor:
    """() mean Huber(relu(E − m_in)) of features' energies (B,) + mean Huber(relu(m_out − E)) of outliers' (n,)."""
    above, below = F.relu(inside - m_in), F.relu(m_out - outside)
    return F.huber_loss(above, torch.zeros_like(above)) + F.huber_loss(below, torch.zeros_like(below))


def kth_distance(points: Tensor, data: Tensor, k: int) -> Tensor:
    """(n,) how far points (n, D) are from their k-th nearest of data (N, D); a point of the data is its own first."""
    portion = max(DISTANCES // len(data), 1)
    k = min(k, len(data))
    return torch.cat([torch.cdist(some, data).kthvalue(k, dim=1).values for some in points.split(portion)])


def paper_outliers(
    features: Tensor, count: int, k: int, boundary: int, draws: int, noise: float, rng: torch.Generator
) -> Tensor:
    """(count, D) points around the edge of the features (N, D), as NPOS makes them.

    The `boundary` features whose k-th neighbour is farthest, on the unit sphere, are each moved `draws` times by normal
    noise; the points that lie farthest from the features, again on the unit sphere, are kept.
    """
    directions = F.normalize(features, dim=1)
    edge = kth_distance(directions, directions, k).topk(min(boundary, len(features))).indices
    moves = torch.randn((len(edge), draws, features.shape[1]), generator=rng, device=features.device)
    candidates = (features[edge].unsqueeze(1) + noise * moves).flatten(0, 1)
    away = kth_distance(F.normalize(candidates, dim=1), directions, k)
    return candidates[away.topk(min(count, len(away))).indices]


def released_outliers(
    features: Tensor, count: int, k: int, boundary: int, draws: int, noise: float, rng: torch.Generator
) -> Tensor:
    """(count, D) as the released code makes them: noise around the origin, each vector `boundary` times.

    Among `draws` vectors of normal noise times `noise`, those farthest from the features (N, D) on the unit sphere are
    kept; as every vector stands there as often as there are boundary points, few different ones are.
    """
    moves = noise * torch.randn((draws, features.shape[1]), generator=rng, device=features.device)
    away = kth_distance(moves, F.normalize(features, dim=1), k)
    times = min(boundary, len(features))
    order = away.argsort(descending=True, stable=True).repeat_interleave(times)
    return moves[order[:count]]


@register(
    "ovor",
    family="prompts",
    version=2,
    paper="arXiv:2402.04129",
    modifier=True,
    null={"epochs": 0},
    tiny={"epochs": 1, "boundary": 10, "draws": 20},
)
def ovor(
    epochs: Natural = 4,
    variant: Variant = "paper",
    strength: NotNegative = 0.1,
    m_in: Real = -15.0,
    m_out: Real = -3.0,
    thresholds: Thresholds = "fixed",
    neighbours: Count = 50,
    boundary: Count = 50,
    draws: Count = 600,
    noise: NotNegative = 0.1,
    per_class: Count = 40,
    batch_size: Count = 128,
) -> Strategy:
    """Virtual outliers: at an experience's end its head learns to be unsure of features that no example has.

    With everything but the head as it is, L = L_features + λ (Huber(relu(E_in − m_in)) + Huber(relu(m_out − E_out))),
    E = −ln Σ_c exp z_c over the experience's classes: energies of its features are pushed below m_in and those of
    virtual outliers above m_out. Features and outliers are made anew for each pass. For any strategy whose head sees
    features only; after OnePrompt it is OVOR.

    Args:
        epochs: passes of this, beside those of the run: 4 beside 16 on CIFAR-100, 10 beside 40 on ImageNet-R.
        variant: paper: outliers lie around the features at the edge of the data (NPOS). as_released: the authors' code
            computes that edge and does not use it; its outliers lie around the origin, and each is there many times.
        strength: λ.
        m_in, m_out: for a strong transformer's outputs.
        thresholds: fixed, those; measured, for weaker networks: the lower quartile of the features' energies at the
            phase's start less 0.1, and the upper quartile of the outliers'.
        neighbours: K, by whose distance a point is near the edge or far away.
        boundary: features taken as the edge.
        draws: candidates around each.
        noise: their standard deviation.
        per_class: outliers kept for each class of the experience.
        batch_size: features in a batch, which get an equal share of the outliers, at least one.

    Reference: Huang et al., "OVOR: OnePrompt with Virtual Outlier Regularization for Rehearsal-Free Class-Incremental
    Learning", ICLR 2024, arXiv:2402.04129. Candidates and edge after Tao et al., "Non-Parametric Outlier Synthesis",
    ICLR 2023, arXiv:2303.02966.

    Differences from the authors' code:
        1. The head is trained on with an optimizer of its own, of the run's settings, whose learning rate goes on
           along the quarter cosine of all passes. The run's own passes follow the run's schedule, which ends with them.
        2. Neighbours are found by torch, all distances computed, in place of faiss. Same neighbours.

    Features of length 1, as sentence encoders give, have energies far from −15 and −3; take `thresholds=measured`.
    """
    if epochs == 0:
        return Strategy()
    found = neighbours, boundary, draws, noise, per_class
    return VirtualOutliers(epochs, variant, strength, (m_in, m_out), thresholds, *found, batch_size)
