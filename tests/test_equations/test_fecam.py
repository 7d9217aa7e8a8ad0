"""FeCAM: distances by correlations of shrunk covariances, with and without Tukey's ladder."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from clbench.strategies.fecam import Mahalanobis, Metric, correlations, shrunk
from torch import Tensor

from clbench import Run, make_strategy
from clbench.errors import DataError, IncompatibleError
from clbench.testing import tiny_benchmark, tiny_run
from clbench.types import Experience


def sines(*shape: int, a: float, f: float = 1.0) -> Tensor:
    return torch.sin(a + f * torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).view(shape)


def learned(part: Mahalanobis, *classes: Tensor) -> Mahalanobis:
    """A part that has seen the features (N, D) of some classes."""
    y = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor([len(x) for x in classes]))
    data = SimpleNamespace(y=lambda: y)
    run = SimpleNamespace(
        num_classes=len(classes),
        model=SimpleNamespace(feature_size=classes[0].shape[1]),
        train=[SimpleNamespace(data=data, classes=range(len(classes)))],
        device=torch.device("cpu"),
    )
    part.setup(cast("Run", run))
    part.count(torch.cat(classes), y)
    part.end_experience(cast("Experience", SimpleNamespace(classes=range(len(classes)))))
    return part


def distances(part: Mahalanobis, queries: Tensor) -> Tensor:
    """(classes, queries)"""
    asked = part.asked(queries)
    return torch.stack([Metric(m, i)(asked) for m, i in zip(part.means, part.inverses, strict=True)])


def close(found: Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)


def test_distances_of_the_reference_on_unit_features() -> None:
    part = learned(Mahalanobis(None, 1.0, 0.0, 1), sines(5, 3, a=1), sines(5, 3, a=7, f=1.3))
    covariance = part.moments.covariance(0)
    found = torch.stack([covariance[0, 1], covariance[0, 2], covariance[1, 2], *covariance.diagonal()])
    close(found, [0.474647555, 0.177227448, 0.302868464, 0.335678889, 0.719519434, 0.150053610])  # type: ignore[list-item]
    close(
        distances(part, sines(3, 3, a=2.2)),
        [[1.421086238, 1.469630304, 1.254915492], [0.883245895, 0.629536574, 0.839128919]],
    )


CLASSES = (sines(5, 3, a=1).square(), sines(5, 3, a=7).square() + 0.2)
QUERIES = sines(3, 3, a=2.2).square()


def test_distances_of_the_reference_with_the_ladder_and_two_shrinks() -> None:
    part = learned(Mahalanobis(0.5, 1.0, 1.0, 2), *CLASSES)
    close(
        distances(part, QUERIES),
        [[0.561212710, 0.508962138, 0.365729246], [0.716167820, 0.662067848, 0.370857596]],
    )


def test_two_shrinks_are_one_of_three_times_the_strength() -> None:
    covariance = CLASSES[0].sqrt().T.cov()
    twice = shrunk(shrunk(covariance, 1, 1), 1, 1)
    torch.testing.assert_close(twice, shrunk(covariance, 3, 3), rtol=0, atol=1e-15)
    close(twice.diagonal(), [0.098100368, 0.071480585, 0.110835761])  # type: ignore[list-item]


def test_correlations_have_ones_and_a_constant_feature_has_none() -> None:
    found = correlations(torch.diag(torch.tensor([4.0, 0.0], dtype=torch.float64)))
    assert found.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_scaling_all_features_changes_nothing() -> None:
    one, other = (learned(Mahalanobis(None, 1, 0, 1), *(s * c for c in CLASSES)) for s in (1, 7))
    torch.testing.assert_close(distances(one, QUERIES), distances(other, 7 * QUERIES), rtol=1e-9, atol=0)


def test_much_shrinkage_gives_the_euclidean_distance() -> None:
    part = learned(Mahalanobis(None, 1e9, 0.0, 1), *CLASSES)
    expected = torch.cdist(part.means, part.asked(QUERIES)).square()
    torch.testing.assert_close(distances(part, QUERIES), expected, rtol=1e-6, atol=0)


def test_without_shrinkage_a_singular_matrix_has_a_pseudo_inverse() -> None:
    part = learned(Mahalanobis(None, 0.0, 0.0, 1), sines(2, 3, a=1), sines(5, 3, a=7))
    assert distances(part, QUERIES).isfinite().all()


def test_the_ladder_refuses_negative_features() -> None:
    with pytest.raises(IncompatibleError, match="leave out beta"):
        learned(Mahalanobis(0.5, 1.0, 0.0, 1), sines(5, 3, a=1), sines(5, 3, a=2))


def test_a_class_of_one_example_is_refused_before_the_first_step() -> None:
    with pytest.raises(
        DataError, match=r"class 0 or ape of tiny@1 has one training example by the end of experience 1\. "
    ):
        tiny_run(make_strategy("fecam"), tiny_benchmark(examples=1, classes=1))


def test_a_class_is_refused_if_it_has_one_example_at_first() -> None:
    with pytest.raises(
        DataError, match=r"class 1 or bird of tiny@1 has one training example by the end of exp"
    ):
        tiny_run(make_strategy("fecam"), tiny_benchmark(examples=3, shift="domain"))


@pytest.mark.parametrize("gamma1", [0.0, 1.0])
@pytest.mark.parametrize("beta", [None, 0.5])
def test_a_class_that_never_varies_has_euclidean_distances(beta: float | None, gamma1: float) -> None:
    """Rounding is no variance: the correlations of it would bring every query near."""
    x = sines(1, 6, a=0.3).abs().expand(7, 6)
    part = learned(Mahalanobis(beta, gamma1, 0.0, 1), x)
    queries = sines(3, 6, a=2.0).abs()
    expected = (part.asked(queries) - part.asked(x[:1])).square().sum(1)
    torch.testing.assert_close(distances(part, queries)[0], expected)


def test_predictions_are_the_nearest_class() -> None:
    run = tiny_run(make_strategy("fecam"), tiny_benchmark())
    run.fit()
    part = next(part for part in run.strategy.parts if isinstance(part, Mahalanobis))
    x = run.normalise(run.benchmark.test[1].data.x())
    with torch.no_grad(), run.evaluating():
        expected = distances(part, run.model.features(x).double()).argmin(0)
        found = run.predict(x, torch.full((len(x),), -1)).argmax(1)
    assert torch.equal(found, expected)
