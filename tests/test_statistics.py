"""Statistics of classes: exact in any batches and any order, and what a ridge regression makes of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench.errors import IncompatibleError
from clbench.parts import ClassMoments, Gram, RandomFeatures


def drawn(n: int = 40, size: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, size, generator=generator, dtype=torch.float64) + 3
    return x, torch.arange(n) % classes


@pytest.mark.parametrize("size", [1, 7, 40])
def test_means_and_covariances_are_those_of_all_examples_in_any_order_and_batches(size: int) -> None:
    x, y = drawn()
    moments = ClassMoments(4, 5)
    for rows in torch.randperm(40, generator=torch.Generator().manual_seed(1)).split(size):
        moments.add(x[rows], y[rows])
    for c in range(3):
        assert moments.counts[c] == (y == c).sum()
        torch.testing.assert_close(moments.means()[c], x[y == c].mean(0), rtol=1e-12, atol=0)
        torch.testing.assert_close(moments.covariance(c), x[y == c].T.cov(), rtol=0, atol=1e-12)
    assert moments.known.tolist() == [True, True, True, False]


def test_one_example_has_no_covariance() -> None:
    moments = ClassMoments(2, 5)
    moments.add(torch.ones(1, 5), torch.tensor([1]))
    with pytest.raises(IncompatibleError, match=r"Class 1 has 1 of the two examples .* shrinkage"):
        moments.covariance(1)


def test_float32_features_lose_nothing_to_the_sums() -> None:
    moments = ClassMoments(1, 2)
    for _ in range(3):
        moments.add(torch.full((1, 2), 4097.0), torch.tensor([0]))  # whose square float32 cannot hold
    assert moments.products[0, 0, 0] == 3 * 4097**2


def ridge(h: Tensor, y: Tensor, strength: float, classes: int) -> Tensor:
    targets = F.one_hot(y, classes).double()
    return torch.linalg.solve(h.T @ h + strength * torch.eye(h.shape[1], dtype=torch.float64), h.T @ targets)


@pytest.mark.parametrize("strength", [1e-3, 1.0, 1e3])
def test_a_ridge_regression_is_that_on_all_rows_at_once(strength: float) -> None:
    x, y = drawn()
    gram = Gram(5, 4)
    for rows in torch.arange(40).flip(0).split(7):
        gram.add(x[rows], y[rows])
    torch.testing.assert_close(gram.solve(strength), ridge(x, y, strength, 4), rtol=0, atol=1e-10)


def test_a_strength_that_is_lost_beside_the_eigenvalues_gives_finite_weights() -> None:
    gram = Gram(3, 2)
    gram.add(torch.full((4, 3), 1e8), torch.tensor([0, 1, 0, 1]))
    assert gram.solve(1e-8).isfinite().all()


def test_random_features_are_positive_parts_of_products() -> None:
    x = torch.tensor([[1.0, -2.0]])
    weight = torch.tensor([[1.0, 2.0, -1.0], [1.0, 0.5, 1.0]], dtype=torch.float64)
    assert RandomFeatures(weight)(x).tolist() == [[0.0, 1.0, 0.0]]
    assert RandomFeatures(None)(x).tolist() == [[1.0, -2.0]]
