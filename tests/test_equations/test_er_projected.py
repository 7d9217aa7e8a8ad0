"""Replay with projected gradients: the gradient over stream and replayed examples, projected against the memory's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, make_strategy
from clbench.config import OptimConfig
from clbench.parts import ProjectAveraged, ProjectEach, as_vector
from clbench.testing import tiny_benchmark, tiny_model, tiny_run, watch


@pytest.mark.parametrize(("rule", "project"), [("a-gem", ProjectAveraged), ("gem", ProjectEach)])
def test_what_is_projected_is_the_gradient_of_replay(rule: str, project: type) -> None:
    batches: list[Batch] = []
    changed: list[bool] = []
    strategy = make_strategy("er-projected", memory=30, draw=2, rule=rule)
    assert isinstance(strategy.parts[-1], project)

    def total() -> Tensor:
        return as_vector([p.grad.clone() for p in run.parameters().values()])

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point == "losses":
            batches.append(arguments[0])
        if point == "gradients":
            batch, before = batches[-1], total()
            theta = list(run.parameters().values())
            expected = torch.autograd.grad(F.cross_entropy(run.model(batch.x), batch.y), theta)
            torch.testing.assert_close(before, as_vector(expected))
            call()
            changed.append(not torch.equal(total(), before))
            return None
        return call()

    watch(strategy, probe)
    benchmark = tiny_benchmark()
    run = tiny_run(strategy, benchmark, model=tiny_model(benchmark, norm=False), optim=OptimConfig(lr=0.3))
    run.fit()
    assert any(changed)
    without = 1 if rule == "a-gem" else 4  # steps before there is anything to replay
    assert [len(batch) > batch.new for batch in batches] == [False] * without + [True] * (12 - without)


def test_the_reference_is_a_draw_of_its_own() -> None:
    strategy = make_strategy("er-projected", memory=30, draw=10)
    run = tiny_run(strategy, tiny_benchmark())
    memory, draws = strategy.parts[0].memory, []
    draw = memory.draw

    def recorded(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        draws.append(draw(n, generator))
        return draws[-1]

    memory.draw = recorded
    run.fit()
    assert len(draws) == 2 * 11  # the memory is empty in the first of 12 steps
    assert not torch.equal(draws[-2]["x"], draws[-1]["x"])


@pytest.mark.parametrize("rule", ["a-gem", "gem"])
def test_the_memory_leaves_running_statistics_alone(rule: str) -> None:
    """Its gradient is that of BatchNorm in eval mode, with the statistics that the step's pass has left."""
    strategy = make_strategy("er-projected", memory=30, rule=rule)
    run = tiny_run(strategy, tiny_benchmark())
    moved, drawn = [], []
    forward = run.forward

    def forwarded(x: Tensor, task: Tensor | None = None) -> Any:
        before = {name: b.clone() for name, b in run.model.named_buffers()}
        out = forward(x, task)
        if len(run.strategy.parts[0].memory) and run.model.training:
            moved.append(any(not torch.equal(b, before[name]) for name, b in run.model.named_buffers()))
            drawn.append([m.training for m in run.model.modules()])
        return out

    run.forward = forwarded  # type: ignore[method-assign]
    run.fit()
    past = {"a-gem": [1] * 11, "gem": [1] * 4 + [2] * 4}[
        rule
    ]  # passes over the memory in each step that has one
    assert moved == [m for n in past for m in (True, *[False] * n)]
    assert all(
        training is not isinstance(module, torch.nn.BatchNorm1d) or step
        for modes, step in zip(drawn, moved, strict=True)
        for module, training in zip(run.model.modules(), modes, strict=True)
    )


def test_the_replayed_rows_may_be_the_reference() -> None:
    """As in the authors' code, where both are one draw."""
    strategy = make_strategy("er-projected", memory=30, draw=10, reference="replayed")
    batches: list[Batch] = []
    passes: list[Tensor] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point == "losses":
            batches.append(arguments[0])
        return call()

    watch(strategy, probe)
    run = tiny_run(strategy, tiny_benchmark())
    forward = run.forward

    def forwarded(x: Tensor, task: Tensor | None = None) -> Any:
        passes.append(x)
        return forward(x, task)

    run.forward = forwarded  # type: ignore[method-assign]
    run.fit()
    assert len(passes) == 12 + 11
    for batch, x in zip(batches[1:], passes[2::2], strict=True):
        assert torch.equal(batch.x[batch.new :], x)
