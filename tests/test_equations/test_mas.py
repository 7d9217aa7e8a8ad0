"""MAS: λ Σ_j Ω_j (θ_j − θ*_j)², Ω adding up 1/N Σ_n |∂ ‖f(x_n)‖² / ∂θ_j| over experiences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clbench.strategies.mas import sensitivity
from torch import Tensor, nn

from clbench import Benchmark, Classifier, Data, Experience, Setting, Strategy, Stream, chain, make_strategy
from clbench.engine.engine import Engine
from clbench.testing import tiny_benchmark, tiny_model, tiny_run
from clbench.transforms.augment import Transform
from clbench.types import Pool


def test_linear_model_by_hand() -> None:
    """f = Wx with W = (2, −1) and x = 1, −3: ∂ f²/∂W = 2 W x², |·| averaged 2 |W| (1 + 9) / 2."""
    x = torch.tensor([[1.0], [-3.0]])
    data = Data.of(Pool(x, torch.tensor([0, 1])), torch.arange(2))
    stream = Stream("train", (Experience(0, (0, 1), data),))
    model = Classifier(nn.Identity(), 1, 2)
    model.head = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[2.0], [-1.0]]))
    run = tiny_run(
        make_strategy("mas"), Benchmark("given", 1, Setting(), stream, stream, 2, Transform()), model=model
    )
    torch.testing.assert_close(sensitivity(run, run.train[0])["head.weight"], torch.tensor([[20.0], [10.0]]))


@pytest.mark.parametrize("norm", [True, False], ids=["normalised", "linear layers alone"])
@pytest.mark.parametrize("shift", ["class", "task"])
def test_one_example_at_a_time(shift: Any, norm: bool) -> None:
    """With task labels, the norm is over the outputs of the example's task."""
    benchmark = tiny_benchmark(shift=shift)
    run = tiny_run(make_strategy("mas"), benchmark, batch_size=24, model=tiny_model(benchmark, norm=norm))
    run.fit()
    exp = run.train[1]
    columns = slice(2, 4) if shift == "task" else slice(None)
    theta = run.parameters()
    expected = {name: torch.zeros_like(p) for name, p in theta.items()}
    with run.evaluating():
        for x, _ in run.visit(exp.data, 1):
            gradients = torch.autograd.grad((run.model(x)[:, columns] ** 2).sum(), list(theta.values()))
            for name, g in zip(expected, gradients, strict=True):
                expected[name] += g.abs() / len(exp)
        found = sensitivity(run, exp)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def fitted() -> tuple[Engine, list[dict[str, Tensor]]]:
    """A run, and the sensitivity at each end."""
    alone: list[dict[str, Tensor]] = []

    class Estimate(Strategy):
        def end_experience(self, exp: Experience) -> None:
            with self.run.evaluating():
                alone.append(sensitivity(self.run, exp))

    run = tiny_run(chain(make_strategy("mas", strength=0.3), Estimate()), tiny_benchmark())
    run.fit()
    return run, alone


def test_importance_adds_up_around_the_latest_weights() -> None:
    run, alone = fitted()
    part = run.strategy.parts[1]
    assert len(alone) == 3
    for name, p in run.parameters().items():
        assert torch.equal(part.anchor[name], p)
        torch.testing.assert_close(part.importance[name], alone[0][name] + alone[1][name] + alone[2][name])


def test_penalty() -> None:
    run, _ = fitted()
    part = run.strategy.parts[1]
    unused: Any = None
    assert part.losses(unused, unused)["mas"] == 0
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in run.parameters().values():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    expected = sum(
        (part.importance[name].double() * (p.detach() - part.anchor[name]).double() ** 2).sum()
        for name, p in run.parameters().items()
    )
    torch.testing.assert_close(
        part.losses(unused, unused)["mas"].double(), 0.3 * expected, rtol=1e-4, atol=1e-8
    )


def test_nothing_is_held_in_the_first_experience() -> None:
    run = tiny_run(make_strategy("mas"), tiny_benchmark())
    unused: Any = None
    assert run.strategy.parts[1].losses(unused, unused) == {}
