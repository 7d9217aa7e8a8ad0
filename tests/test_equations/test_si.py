"""SI: c Σ_j Ω_j (θ_j − θ̃_j)²; Ω ← max(0, Ω + ω / (Δ² + ξ)), ω = −Σ g Δθ over the updates of an experience."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.testing import tiny_benchmark, tiny_model, tiny_run, watch


def test_one_weight_by_hand() -> None:
    """Two updates with gradients 2 and 1 and steps −0.5 and −0.25: ω = 1.25, Δ = −0.75, Ω = 1.25 / (0.5625 + 0.1)."""
    run = tiny_run(make_strategy("si"), tiny_benchmark())
    part = run.strategy.parts[1]
    bias = run.model.head.bias
    for gradient, move in ((2.0, -0.5), (1.0, -0.25)):
        for p in run.parameters().values():
            p.grad = torch.zeros_like(p)
        bias.grad = torch.full_like(bias, gradient)
        part.gradients()
        with torch.no_grad():
            bias += move
            part.after_update()
    part.end_experience(run.train[0])
    torch.testing.assert_close(part.importance["head.bias"], torch.full((6,), 1.25 / 0.6625))
    assert torch.equal(part.importance["head.weight"], torch.zeros(6, 16))
    assert torch.equal(part.path["head.bias"], torch.zeros(6))
    with torch.no_grad():
        bias += 0.1
    unused: Any = None
    assert part.losses(unused, unused)["si"].item() == pytest.approx(0.1 * 6 * 1.25 / 0.6625 * 0.01, rel=1e-5)


@pytest.mark.parametrize(("seed", "strength", "xi", "clip"), [(0, 0.5, 0.1, None), (1, 5.0, 0.01, 0.1)])
def test_importance_over_a_run(seed: int, strength: float, xi: float, clip: float | None) -> None:
    """From every update's weights and batch alone; the gradient is the data's, without the penalty's or clipping."""
    losses: list[tuple[Tensor, Tensor]] = []
    weights: list[dict[str, Tensor]] = []
    ends: list[int] = []
    strategy = make_strategy("si", strength=strength, xi=xi)
    part = strategy.parts[1]

    def state() -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in run.parameters().items()}

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point == "losses":
            losses.append((arguments[0].x, arguments[0].y))
            weights.append(state())
        if point == "end_experience":
            ends.append(len(losses))
        return call()

    watch(part, probe)
    benchmark = tiny_benchmark(seed=seed)
    optim = OptimConfig(lr=0.05, momentum=0.9, clip=clip)
    run = tiny_run(strategy, benchmark, model=tiny_model(benchmark, norm=False), optim=optim)
    run.fit()
    weights.append(state())
    final = state()

    importance = {name: torch.zeros_like(p).double() for name, p in final.items()}
    start = 0
    for end in ends:
        path = {name: torch.zeros_like(p).double() for name, p in final.items()}
        for n in range(start, end):
            run.model.load_state_dict(weights[n])
            x, y = losses[n]
            gradients = torch.autograd.grad(F.cross_entropy(run.model(x), y), list(run.parameters().values()))
            for name, g in zip(path, gradients, strict=True):
                path[name] -= g.double() * (weights[n + 1][name] - weights[n][name]).double()
        for name in importance:
            way = (weights[end][name] - weights[start][name]).double()
            importance[name] = (importance[name] + path[name] / (way**2 + xi)).clamp(min=0)
        start = end
    assert ends == [4, 8, 12]
    for name, value in importance.items():
        torch.testing.assert_close(part.importance[name].double(), value, rtol=1e-2, atol=1e-5)
        assert torch.equal(part.anchor[name], final[name])
        assert (part.importance[name] >= 0).all()


def fitted() -> Engine:
    run = tiny_run(make_strategy("si", strength=3.0), tiny_benchmark())
    run.fit()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in run.parameters().values():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return run


def test_penalty_and_its_gradient() -> None:
    run = fitted()
    part = run.strategy.parts[1]
    theta = run.parameters()
    unused: Any = None
    penalty = part.losses(unused, unused)["si"]
    expected = sum(
        (part.importance[name].double() * (p.detach() - part.anchor[name]).double() ** 2).sum()
        for name, p in theta.items()
    )
    torch.testing.assert_close(penalty.double(), 3.0 * expected, rtol=1e-4, atol=1e-8)
    for (name, p), gradient in zip(
        theta.items(), torch.autograd.grad(penalty, list(theta.values())), strict=True
    ):
        torch.testing.assert_close(gradient, part.pull(name, p.detach()), rtol=1e-4, atol=1e-6)


def test_a_weight_that_stays_adds_nothing_even_if_its_gradient_overflowed() -> None:
    run = tiny_run(make_strategy("si"), tiny_benchmark())
    part = run.strategy.parts[1]
    for p in run.parameters().values():
        p.grad = torch.full_like(p, float("inf"))
    part.gradients()
    with torch.no_grad():
        part.after_update()
    assert all(torch.equal(value, torch.zeros_like(value)) for value in part.path.values())


def test_nothing_is_held_in_the_first_experience() -> None:
    run = tiny_run(make_strategy("si"), tiny_benchmark())
    x = torch.zeros((2, 8))
    zeros = torch.zeros(2, dtype=torch.int64)
    batch = Batch(x, zeros, zeros - 1, x, zeros, zeros, 2)
    assert run.strategy.parts[1].losses(batch, run.forward(x)) == {}
