"""OVOR: energies, virtual outliers of the paper and of the released code, and a phase that trains the head alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from clbench.strategies.ovor import (
    VirtualOutliers,
    energy,
    energy_loss,
    kth_distance,
    paper_outliers,
    released_outliers,
)
from torch import Tensor
from torch.nn import functional as F

from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.machine.optim import quarter_cosine, schedule_factor
from clbench.testing import subject, tiny_benchmark, tiny_run


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_energies_by_hand() -> None:
    """(2, 1, 0): E = −2.40761, hinge 12.59239, Huber 12.09239, × 0.1; (5, 5, 5): −6.09861, 3.09861, 2.59861."""
    inside = energy(torch.tensor([[2.0, 1.0, 0.0]]), [0, 1, 2])
    outside = energy(torch.tensor([[5.0, 5.0, 5.0]]), [0, 1, 2])
    assert inside.item() == pytest.approx(-2.40761, abs=1e-5)
    assert outside.item() == pytest.approx(-6.09861, abs=1e-5)
    fine = torch.tensor([-99.0]), torch.tensor([99.0])
    assert 0.1 * energy_loss(inside, fine[1], -15.0, -3.0).item() == pytest.approx(1.20924, abs=1e-5)
    assert 0.1 * energy_loss(fine[0], outside, -15.0, -3.0).item() == pytest.approx(0.25986, abs=1e-5)
    assert energy_loss(*fine, -15.0, -3.0).item() == 0


@pytest.mark.parametrize("seed", range(3))
def test_energies_by_the_definition(seed: int) -> None:
    z, o = 9 * normal(7, 5, seed=seed), 9 * normal(4, 5, seed=seed + 1)
    classes = [1, 3]

    def huber(x: float) -> float:
        return 0.5 * x * x if x < 1 else x - 0.5

    inside = [-math.log(sum(math.exp(row[c]) for c in classes)) for row in z.double().tolist()]
    outside = [-math.log(sum(math.exp(row[c]) for c in classes)) for row in o.double().tolist()]
    expected = (
        sum(huber(max(e + 15, 0)) for e in inside) / 7 + sum(huber(max(-3 - e, 0)) for e in outside) / 4
    )
    found = energy_loss(energy(z, classes), energy(o, classes), -15.0, -3.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_distance_to_the_kth_neighbour() -> None:
    points, data = normal(6, 3), normal(9, 3, seed=1)
    expected = torch.stack([(data - p).norm(dim=1).sort().values[3] for p in points])
    torch.testing.assert_close(kth_distance(points, data, 4), expected)
    assert (kth_distance(data, data, 1) < 1e-3).all()  # itself


def test_outliers_of_the_paper_lie_around_features_at_the_edge() -> None:
    d = 768
    features = 20 * F.normalize(normal(60, d), dim=1)
    kept = paper_outliers(features, 40, 10, 5, 30, 0.1, rng())
    assert kept.shape == (40, d)
    distance = torch.cdist(kept, features).min(dim=1)
    assert (distance.values - 0.1 * d**0.5).abs().max() < 0.5  # about 2.8
    directions = F.normalize(features, dim=1)
    edge = kth_distance(directions, directions, 10).topk(5).indices
    assert set(distance.indices.tolist()) <= set(edge.tolist())


def test_outliers_of_the_paper_by_an_independent_formula() -> None:
    features = normal(12, 4, seed=3) + 2
    kept = paper_outliers(features, 6, 3, 2, 5, 0.1, rng(7))
    unit = features / features.norm(dim=1, keepdim=True)
    far = [sorted((unit - u).norm(dim=1).tolist())[2] for u in unit]
    edge = sorted(range(12), key=lambda i: -far[i])[:2]
    moves = torch.randn((2, 5, 4), generator=rng(7))
    candidates = [features[i] + 0.1 * moves[j, k] for j, i in enumerate(edge) for k in range(5)]
    away = [sorted((unit - c / c.norm()).norm(dim=1).tolist())[2] for c in candidates]
    best = sorted(range(10), key=lambda i: -away[i])[:6]
    torch.testing.assert_close(kept, torch.stack([candidates[i] for i in best]))


@pytest.mark.parametrize(("classes", "distinct"), [(10, 8), (20, 16)])
def test_outliers_as_released_are_few_vectors_around_the_origin(classes: int, distinct: int) -> None:
    kept = released_outliers(20 * normal(100, 768), 40 * classes, 50, 50, 600, 0.1, rng())
    assert len(kept) == 40 * classes
    assert len(kept.unique(dim=0)) == distinct
    lengths = kept.norm(dim=1)  # about 2.8, the longer ones of 600
    assert lengths.min() > 2.7
    assert lengths.max() < 3.2


def run_of(strategy: str, **params: Any) -> Engine:
    checked = subject(strategy)
    benchmark = checked.benchmark(experiences=2, classes=2)
    return checked.run(benchmark, checked.make(**params), optim=OptimConfig(name="adam", lr=1e-2))


@pytest.mark.parametrize("base", ["oneprompt", "l2p", "dualprompt", "coda-prompt"])
@pytest.mark.parametrize("variant", ["paper", "as_released"])
def test_the_phase_moves_the_head_alone_and_only_rows_of_the_present_classes(base: str, variant: str) -> None:
    run = run_of(f"{base}+ovor", ovor__variant=variant)
    ovor = next(p for p in run.strategy.parts if isinstance(p, VirtualOutliers))
    states: list[dict[str, Tensor]] = []
    end = ovor.end_experience

    def around(exp: Any) -> None:
        states.append({name: value.clone() for name, value in run.model.state_dict().items()})
        end(exp)
        states.append({name: value.clone() for name, value in run.model.state_dict().items()})

    ends = run.points.end_experience
    ends[ends.index(end)] = around
    run.fit()
    for index, (before, after) in enumerate(zip(states[::2], states[1::2], strict=True)):
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved
        assert all(name.startswith("head.") for name in moved)
        for name in moved:
            rows = (
                (before[name] != after[name]).flatten(1).any(1)
                if before[name].ndim > 1
                else before[name] != after[name]
            )
            assert set(rows.nonzero().flatten().tolist()) <= {2 * index, 2 * index + 1}


def test_with_and_without_differ_in_the_head_only_and_in_as_many_passes_as_counted() -> None:
    checked = subject("oneprompt+ovor")
    benchmark = checked.benchmark(experiences=1, classes=3)
    on, off = checked.run(benchmark), subject("oneprompt").run(benchmark)
    on.fit(), off.fit()
    states = on.model.state_dict(), off.model.state_dict()
    apart = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    assert apart
    assert all(name.startswith("head.") for name in apart)
    assert on.forwards - off.forwards == 64  # one pass over the experience for the one epoch of outliers
    assert on.updates > off.updates


def test_measured_thresholds_are_quartiles() -> None:
    run = run_of("oneprompt+ovor", ovor__thresholds="measured", ovor__epochs=1)
    part = next(p for p in run.strategy.parts if isinstance(p, VirtualOutliers))
    part.present = [0, 1]
    features, outliers = normal(20, 32), normal(30, 32, seed=2)
    for p in run.strategy.parts:
        p.begin_experience(run.benchmark.train[0])
    low, high = part.measured(features, outliers)
    logits = [run.model.head(t).detach()[:, :2] for t in (features, outliers)]  # type: ignore[operator]
    assert low.item() == pytest.approx((-logits[0].logsumexp(1)).quantile(0.25).item() - 0.1, abs=1e-5)
    assert high.item() == pytest.approx((-logits[1].logsumexp(1)).quantile(0.75).item(), abs=1e-5)


def test_a_head_that_asks_for_more_than_features_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="InstanceMasked"):
        tiny_run(subject("mvp+ovor").make(), tiny_benchmark(images=True))


def authors_rates(epochs: int) -> list[float]:
    """As CODA-Prompt's scheduler: it forgets its step 0, and steps before every pass but the first."""
    rates, last_epoch, rate = [], -1, 1.0
    for epoch in range(epochs):
        if epoch > 0:
            last_epoch += 1
            rate = math.cos(99 * math.pi * last_epoch / (200 * (epochs - 1)))
        rates.append(rate)
    return rates


@pytest.mark.parametrize(("epochs", "last"), [(1, 1.0), (2, 1.0), (3, 0.71264), (5, 0.39354), (20, 0.09741)])
def test_quarter_cosine(epochs: int, last: float) -> None:
    optim = OptimConfig(schedule="quarter-cosine")
    rates = [quarter_cosine(epoch, epochs) for epoch in range(epochs)]
    assert rates == pytest.approx(authors_rates(epochs), abs=1e-12)
    assert rates[-1] == pytest.approx(last, abs=1e-5)
    for epoch, rate in enumerate(rates):
        for step in (0, 6):  # constant within a pass of 7 steps
            assert schedule_factor(optim, 7 * epoch + step, 7 * epochs, epochs) == pytest.approx(rate)
