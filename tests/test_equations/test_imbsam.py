"""ImbSAM: g = ∇ Σ_head ℓ / B at θ + ∇ 2 Σ_tail ℓ / B at θ + ρ g_tail / ‖g_tail‖, and θ comes back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from clbench.strategies.imbsam import TailSharpness
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from clbench import Batch, make_strategy
from clbench.engine.engine import Engine
from clbench.testing import tiny_model, tiny_run
from clbench.types import Benchmark

RHO = 0.05


def _run(strategy: str, benchmark: Benchmark, norm: bool) -> Engine:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        model = tiny_model(benchmark, norm=norm)
    run = tiny_run(make_strategy(strategy), benchmark, model=model)
    for part in run.strategy.parts:
        part.begin_experience(run.train[0])
    run.place.experience, run._steps = 1, 8
    for part in run.strategy.parts:
        part.begin_experience(run.train[1])
    run.model.train()
    return run


def _batch(run: Engine, rows: Tensor) -> Batch:
    x, y = run.train[1].data.take(rows)
    zeros = torch.zeros_like(y)
    return Batch(x, y, zeros - 1, x, zeros, zeros, len(y))


def _gradient(
    run: Engine, batch: Batch, theta: dict[str, Tensor], weight: Tensor, prior: Tensor
) -> list[Tensor]:
    """∇ Σ weight ℓ at θ, in double precision."""
    leaves = {name: value.detach().double().requires_grad_() for name, value in theta.items()}
    # Buffers are copies, as batch normalisation writes into its own.
    buffers = {
        name: b.double() if b.is_floating_point() else b.clone() for name, b in run.model.named_buffers()
    }
    logits = functional_call(run.model, leaves | buffers, (batch.x.double(),))
    rows = F.cross_entropy(logits + prior, batch.y, reduction="none")
    return list(torch.autograd.grad((rows * weight).sum(), list(leaves.values())))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("also", ["", "+balanced-softmax"])
def test_the_gradient(also: str, norm: bool, few_shot_benchmark: Callable[..., Benchmark]) -> None:
    run = _run(f"joint+imbsam{also}", few_shot_benchmark(), norm)
    part = next(p for p in run.strategy.parts if isinstance(p, TailSharpness))
    batch = _batch(run, torch.tensor([0, 30, 50, 90, 96, 97, 99, 101]))
    theta = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    buffers = [b.clone() for b in run.model.buffers()]
    part.gradient(batch, run._gradient)
    assert all(torch.equal(p, theta[name]) for name, p in run.model.named_parameters())  # θ is back

    prior = torch.tensor([24] * 4 + [3, 3, 0, 0]).double().log().clamp(min=-1e4) if also else torch.zeros(8)
    tail = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]).bool()
    size = len(tail)
    head_weight, tail_weight = (~tail).double() / size, 2 * tail.double() / size
    g = _gradient(run, batch, theta, tail_weight, prior)
    length = torch.sqrt(sum((v**2).sum() for v in g))
    moved = {name: p.double() + RHO * v / length for (name, p), v in zip(theta.items(), g, strict=True)}
    at_head = _gradient(run, batch, theta, head_weight, prior)
    at_tail = _gradient(run, batch, moved, tail_weight, prior)
    for p, a, b in zip(run.model.parameters(), at_head, at_tail, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad.double(), a + b, rtol=1e-4, atol=1e-6)
    if norm:  # statistics moved once
        once = [b.clone() for b in run.model.buffers()]
        for buffer, value in zip(run.model.buffers(), buffers, strict=True):
            buffer.copy_(value)
        run.forward(batch.x)
        assert all(torch.equal(a, b) for a, b in zip(once, run.model.buffers(), strict=True))


def test_without_rare_rows_it_is_the_plain_gradient(few_shot_benchmark: Callable[..., Benchmark]) -> None:
    runs = [_run(f"joint{also}", few_shot_benchmark(), True) for also in ("", "+imbsam")]
    batch = _batch(runs[0], torch.arange(0, 90, 6))
    runs[0]._gradient(batch)
    next(p for p in runs[1].strategy.parts if isinstance(p, TailSharpness)).gradient(batch, runs[1]._gradient)
    for a, b in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)


def test_rare_is_what_came_after_the_first_experience(few_shot_benchmark: Callable[..., Benchmark]) -> None:
    run = _run("joint+imbsam", few_shot_benchmark(), True)
    part = next(p for p in run.strategy.parts if isinstance(p, TailSharpness))
    assert part.rare.tolist() == [False] * 4 + [True] * 4


def test_a_mixed_row_is_rare_if_either_label_is(few_shot_benchmark: Callable[..., Benchmark]) -> None:
    run = _run("joint+cmo+imbsam", few_shot_benchmark(), True)
    part = next(p for p in run.strategy.parts if isinstance(p, TailSharpness))
    mix = part.loss.mix
    assert mix is not None
    batch = _batch(run, torch.tensor([0, 30, 96, 97]))
    mix._active, mix._other = True, torch.tensor([4, 1, 0, 5])
    for mixed, expected in ((True, [True, False, True, True]), (False, [False, False, True, True])):
        mix.mixed = torch.tensor(mixed)
        assert part.tail(batch).tolist() == expected


def test_all_parts_train_together(few_shot_benchmark: Callable[..., Benchmark]) -> None:
    strategy = make_strategy("joint+restart+cmo+balanced-softmax+imbsam", start=-1)
    run = tiny_run(strategy, few_shot_benchmark(images=True), epochs=3)
    run.fit()
    assert run.updates == 3 * (3 + 4 + 4)
