"""ACIL: recursive least squares, which after any batches in any order is one ridge regression on all rows."""

from __future__ import annotations

import pytest
import torch
from clbench.strategies.acil import Recursive
from torch.nn import functional as F

from clbench import make_strategy
from clbench.testing import tiny_benchmark, tiny_run

X = torch.sin(0.7 + torch.arange(60, dtype=torch.float64)).view(12, 5).relu()
Y = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 0, 1, 3, 3])
WEIGHT = torch.tensor(
    [
        [0.017044362, 1.014766490, -0.035679240, -0.030649913],
        [0.201303849, -0.358506882, 0.072963791, 0.079932817],
        [0.263948830, 0.380440208, -0.081822386, 0.390010104],
        [-0.002170580, -0.407040468, 0.491300151, -0.029358988],
        [0.559001042, 0.466917612, 0.064158084, 0.001406538],
    ],
    dtype=torch.float64,
)


@pytest.mark.parametrize("size", [1, 3, 4, 12])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_weights_of_the_reference_in_any_order_and_batches(size: int, seed: int) -> None:
    ridge = Recursive(5, 4, 0.1)
    for rows in torch.randperm(12, generator=torch.Generator().manual_seed(seed)).split(size):
        ridge.add(X[rows], Y[rows])
    torch.testing.assert_close(ridge.weight, WEIGHT, rtol=0, atol=1e-8)
    inverse = torch.linalg.inv(X.T @ X + 0.1 * torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(ridge.inverse, inverse, rtol=0, atol=1e-10)


def test_scores_of_the_reference_after_eight_rows() -> None:
    ridge = Recursive(5, 3, 0.1)
    for rows in (slice(0, 4), slice(4, 8)):
        ridge.add(X[rows], Y[rows])
    expected = [[0.476694860, 0.571403624, -0.015876675], [0.530961540, -0.010607058, 0.428407778]]
    torch.testing.assert_close(
        X[:2] @ ridge.weight, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8
    )


def test_three_passes_are_one_with_a_third_of_the_strength() -> None:
    thrice, once = Recursive(5, 4, 0.3), Recursive(5, 4, 0.1)
    for _ in range(3):
        thrice.add(X, Y)
    once.add(X, Y)
    torch.testing.assert_close(thrice.weight, once.weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("boundaries", [True, False])
def test_a_run_ends_with_one_regression_on_all_examples(boundaries: bool) -> None:
    benchmark = tiny_benchmark(boundaries=boundaries)
    run = tiny_run(make_strategy("acil", projection=12), benchmark, epochs=2)
    run.fit()
    head = run.strategy.parts[-1]
    x, y = torch.cat([e.data.x() for e in benchmark.train]), torch.cat([e.data.y() for e in benchmark.train])
    with torch.no_grad(), run.evaluating():
        h = head.random(run.model.features(run.normalise(x)))
    gram = h.T @ h + 0.1 * torch.eye(12, dtype=torch.float64)
    expected = torch.linalg.solve(gram, h.T @ F.one_hot(y, 6).double())
    torch.testing.assert_close(head.ridge.weight, expected, rtol=0, atol=1e-5)  # features are float32


def test_random_features_are_uniform_within_the_root_of_the_width() -> None:
    head = tiny_run(make_strategy("acil", projection=2000), tiny_benchmark()).strategy.parts[-1]
    assert head.random.weight.shape == (16, 2000)
    assert 0.24 < float(head.random.weight.abs().max()) <= 0.25
