"""RanPAC: ridge regression on random features, its strength chosen on a fifth of the rows, equal to one on all data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from clbench.strategies.ranpac import GRID, validation_losses
from torch import Tensor
from torch.nn import functional as F

from clbench import make_strategy
from clbench.parts import Gram, RandomFeatures
from clbench.testing import tiny_benchmark, tiny_run
from clbench.types import Benchmark, Stream


def wave(function: object, *shape: int, a: float, f: float = 1.0) -> Tensor:
    return function(a + f * torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).view(shape)  # type: ignore[operator]


X, Y = wave(torch.sin, 10, 4, a=0.5), torch.arange(10) % 3
WEIGHT = wave(torch.cos, 4, 6, a=0.3, f=0.7)
LOSSES = """0.412376046 0.412375038 0.412364963 0.412264246 0.411260601 0.401565316 0.330135573 0.177688756 0.136040181
0.245837611 0.320647154 0.332006338 0.333200022 0.333319996 0.333332 0.3333332 0.33333332"""


def test_losses_of_the_reference_choose_its_strength() -> None:
    losses = validation_losses(RandomFeatures(WEIGHT)(X), Y, 3)
    expected = torch.tensor([float(number) for number in LOSSES.split()], dtype=torch.float64)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-8)
    assert GRID[int(losses.argmin())] == 1.0


def test_few_rows_of_many_features_give_the_losses_that_solving_gives() -> None:
    """HHᵀ in the place of HᵀH."""
    h = torch.rand(20, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(20) % 4
    targets = F.one_hot(y, 4).double()
    losses = validation_losses(h, y, 4)
    for k in (6, 8, 12):
        gram = Gram(50, 4)
        gram.add(h[:16], y[:16])
        expected = (h[16:] @ gram.solve(GRID[k]) - targets[16:]).square().mean()
        torch.testing.assert_close(losses[k], expected, rtol=1e-6, atol=0)


def test_scores_of_the_reference() -> None:
    random, gram = RandomFeatures(WEIGHT), Gram(6, 3)
    gram.add(random(X), Y)
    assert float(gram.gram.trace()) == pytest.approx(9.453085030962784, abs=1e-8)
    expected = torch.tensor(
        [[-0.022379539, 0.391025907, 0.265782333], [0.399046188, -0.090568021, 0.504654082]],
        dtype=torch.float64,
    )
    found = random(wave(torch.sin, 2, 4, a=3.1)) @ gram.solve(1.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def shuffled(benchmark: Benchmark, order: list[int]) -> Benchmark:
    experiences = [replace(benchmark.train[k], index=i, tests=(k,)) for i, k in enumerate(order)]
    return replace(benchmark, train=Stream("train", tuple(experiences)))


def joint(run: object, benchmark: Benchmark, strength: float) -> Tensor:
    """The regression on all examples at once."""
    head = run.strategy.parts[-1]  # type: ignore[attr-defined]
    x, y = (
        torch.cat([get(exp) for exp in benchmark.train])
        for get in (lambda e: e.data.x(), lambda e: e.data.y())
    )
    with torch.no_grad(), run.evaluating():  # type: ignore[attr-defined]
        h = head.random(run.model.features(run.normalise(x)))  # type: ignore[attr-defined]
    targets = F.one_hot(y, benchmark.num_classes).double()
    return torch.linalg.solve(h.T @ h + strength * torch.eye(h.shape[1], dtype=torch.float64), h.T @ targets)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_in_any_order_it_is_one_regression_on_all_examples(order: list[int]) -> None:
    benchmark = shuffled(tiny_benchmark(), order)
    run = tiny_run(make_strategy("ranpac", projection=12, ridge=10.0), benchmark, epochs=2)
    run.fit()
    # The network's float32 products hang on the number of rows; sums and solution add nothing to that.
    torch.testing.assert_close(run.strategy.parts[-1].weight, joint(run, benchmark, 10.0), rtol=0, atol=1e-6)


def test_projection_and_backbone_stay() -> None:
    run = tiny_run(make_strategy("ranpac", projection=12), tiny_benchmark())
    head = run.strategy.parts[-1]
    before = head.random.weight.clone(), [p.clone() for p in run.model.parameters()]
    run.fit()
    assert torch.equal(head.random.weight, before[0])
    assert all(torch.equal(a, b) for a, b in zip(before[1], run.model.parameters(), strict=True))


def test_without_a_projection_the_features_are_those_of_the_network() -> None:
    run = tiny_run(make_strategy("ranpac", projection=0), tiny_benchmark())
    assert run.strategy.parts[-1].weight.shape == (16, 6)


def test_adapted_it_trains_in_the_first_experience_only() -> None:
    run = tiny_run(make_strategy("ranpac", projection=12, adapt="finetune"), tiny_benchmark())
    states = []

    class Look:
        def __getattr__(self, name: str) -> object:
            return lambda *_: (
                name == "end_experience"
                and states.append([p.detach().clone() for p in run.model.backbone.parameters()])
            )

    start = [p.detach().clone() for p in run.model.backbone.parameters()]
    run.observers.append(Look())  # type: ignore[arg-type]
    run.fit()
    first, *others = states
    assert not all(torch.equal(a, b) for a, b in zip(start, first, strict=True))
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
    assert run.evaluator.curve.correct[-1].sum() > 0
