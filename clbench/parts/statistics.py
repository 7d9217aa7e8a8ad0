"""Statistics of classes on features that stay as they are: means, covariances, and what a ridge regression needs.

All are sums in float64 over examples that count once, so that batches, order and experiences make no difference beyond
the last bits of rounding.

Shapes: B rows of a batch, C classes, D features, M random features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench.errors import IncompatibleError
from clbench.machine.caching import once
from clbench.strategy import Run, Strategy, overrides
from clbench.types import Batch, Data, Output


def add_rows(total: Tensor, index: Tensor, rows: Tensor) -> None:
    """Add rows (B, …) to those of `total` (C, …) that `index` (B,) names, in the same order on a GPU, too."""
    if total.device.type == "cuda":
        total.index_put_((index,), rows, accumulate=True)  # which sorts; atomic additions have no order
    else:
        total.index_add_(0, index, rows)


class ClassSums(nn.Module):
    """How many examples each class has, and the sum of their features.

    Attributes:
        counts: (C,). sums: (C, D).
    """

    counts: Tensor
    sums: Tensor

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(classes, features, dtype=torch.float64))

    def add(self, features: Tensor, y: Tensor) -> None:
        """Count features (B, D) of classes y (B,) in."""
        members = F.one_hot(y, len(self.counts)).double()  # a product, as atomic additions have no order
        self.counts += members.sum(0)
        self.sums += members.T @ features.double()

    @property
    def known(self) -> Tensor:
        """(C,) bool, the classes that have examples."""
        return self.counts > 0

    def means(self) -> Tensor:
        """(C, D), 0 for classes without examples."""
        return self.sums / self.counts.clamp(min=1).unsqueeze(1)


class ClassMoments(ClassSums):
    """Of each class also the sum of products of features, Σ φφᵀ.

    Attributes:
        products: (C, D, D).
    """

    products: Tensor

    def __init__(self, classes: int, features: int) -> None:
        super().__init__(classes, features)
        self.register_buffer("products", torch.zeros(classes, features, features, dtype=torch.float64))

    def add(self, features: Tensor, y: Tensor) -> None:
        super().add(features, y)
        for c in y.unique().tolist():
            own = features[y == c].double()
            self.products[c] += own.T @ own

    def covariance(self, c: int) -> Tensor:
        """(D, D) Σ (φ − μ)(φ − μ)ᵀ / (n − 1) of a class; exactly 0 for a feature that varies by rounding alone.

        Raises:
            IncompatibleError: it has one example, or none.
        """
        n, total = self.counts[c], self.sums[c]
        if n < 2:
            raise IncompatibleError(
                f"Class {c} has {int(n)} of the two examples that a covariance takes at least; shrinkage adds "
                "multiples of the mean variance and stands in for none."
            )
        centred: Tensor = self.products[c] - torch.outer(total, total) / n
        varies = centred.diagonal() > n * torch.finfo(centred.dtype).eps * self.products[c].diagonal()
        return centred.where(varies & varies.unsqueeze(1), 0.0) / (n - 1)


class Gram(nn.Module):
    """What a ridge regression from features to one-hot labels needs: HᵀH and HᵀY.

    Attributes:
        gram: (M, M). products: (M, C).
    """

    gram: Tensor
    products: Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("gram", torch.zeros(features, features, dtype=torch.float64))
        self.register_buffer("products", torch.zeros(features, classes, dtype=torch.float64))

    def add(self, h: Tensor, y: Tensor) -> None:
        """Count features h (B, M) of classes y (B,) in."""
        h = h.double()
        self.gram.addmm_(h.T, h)
        self.products.addmm_(h.T, F.one_hot(y, self.products.shape[1]).double())

    def solve(self, ridge: float) -> Tensor:
        """(M, C) (HᵀH + λ I)⁻¹ HᵀY for λ = `ridge`."""
        shifted = self.gram.clone()
        shifted.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if failed:  # λ is lost beside the largest eigenvalue
            shifted, products = shifted.cpu(), self.products.cpu()  # a GPU has no driver for singular systems
            found: Tensor = torch.linalg.lstsq(shifted, products, driver="gelsd").solution
            return found.to(self.products.device)
        return torch.cholesky_solve(self.products, factor)


class RandomFeatures(nn.Module):
    """(B, D) features → (B, M) relu(φ W), float64; the features themselves without W.

    Args:
        weight: W (D, M), which nothing moves.
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, features: Tensor) -> Tensor:
        features = features.double()
        return features if self.weight is None else F.relu(features @ self.weight)


class OnePass(Strategy):
    """Statistics of the stream: every example counts once, as it is, whatever the passes and views of training.

    A subclass says what is counted (`count`). The backbone must stay as it is.
    """

    parallel = True

    def extend(self, batch: Batch) -> Batch:
        return batch.with_x(self.run.normalise(batch.raw))

    def after_step(self, batch: Batch, out: Output) -> None:
        if self.run.epoch == 0:
            self.count(batch.firsts(out.features), batch.firsts(batch.y))

    def count(self, features: Tensor, y: Tensor) -> None:
        """Count features (B, D) of classes y (B,) in."""
        raise NotImplementedError


class Expanded(Strategy):
    """Random features, drawn once, by which a part classifies.

    Attributes:
        random: gives them; a part of the state.
    """

    parallel = True
    random: RandomFeatures

    def draw(self, run: Run, features: int, scale: str) -> int:
        """Draw W (D, M) from the stream `projection`; return how wide the result is: M, or D without W.

        Args:
            run: whose generator draws.
            features: M; 0 for none.
            scale: normal, N(0, 1), or uniform, in ±1/√D.
        """
        size: int = run.model.feature_size  # type: ignore[assignment]
        weight, generator = None, run.rng("projection")
        if features:
            weight = torch.empty(size, features, dtype=torch.float64, device=run.device)
            if scale == "normal":
                weight.normal_(generator=generator)
            else:
                weight.uniform_(-(size**-0.5), size**-0.5, generator=generator)
        self.random = RandomFeatures(weight)
        # What the answers of test examples depend on.
        self._network = nn.ModuleList([run.model.backbone, self.random])  # type: ignore[list-item]
        return features or size

    def expanded(self, x: Tensor) -> Tensor:
        """Inputs (B, …) → (B, M) float32 random features of what the model makes of them; once for a test example."""
        return once("random features", self._network, x, self._expand)

    def _expand(self, x: Tensor) -> Tensor:
        features: Tensor = self.random(self.run.forward(x).features).float()
        return features


def features_of(run: Run, data: Data) -> tuple[Tensor, Tensor]:
    """The features (N, D) of all examples of some data, not augmented and in eval mode, and their labels (N,)."""
    found: list[tuple[Tensor, Tensor]] = []
    with run.evaluating(), torch.no_grad():
        found += [(run.forward(x).features, y) for x, y in run.visit(data)]
    features, labels = zip(*found, strict=True)
    return torch.cat(features), torch.cat(labels)


def refuse_steps(run: Run, part: Strategy) -> None:
    """Refuse other parts that act around the steps of a run: what `part` trains on features, they take for inputs.

    Raises:
        IncompatibleError: there is one; names both.
    """
    for other in run.strategy.parts:
        if other is not part and overrides(other, "step"):
            raise IncompatibleError(
                f"{part} trains the head on features at an experience's end, and {other} passes every batch through "
                "the whole network; leave one of them out."
            )
