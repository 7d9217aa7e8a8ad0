"""A-GEM: g − ⟨g, g_ref⟩ / (‖g_ref‖² + 10⁻⁷) g_ref where ⟨g, g_ref⟩ < 0, with g_ref of a batch of past examples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import make_strategy
from clbench.engine.engine import Engine
from clbench.parts import Episodes, ProjectAveraged, as_vector, projected_averaged
from clbench.testing import tiny_benchmark, tiny_model, tiny_run, watch


def test_by_hand() -> None:
    """g = (1, 0), g_ref = (−1, 1): half of g_ref is taken away."""
    found = projected_averaged(torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5]), atol=1e-6, rtol=0)


def test_nothing_changes_where_no_loss_would_rise() -> None:
    g = torch.tensor([1.0, 2.0])
    for reference in ([1.0, 0.0], [2.0, -1.0], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]):
        assert torch.equal(projected_averaged(g, torch.tensor(reference)), g)


@pytest.mark.parametrize("seed", range(5))
def test_random_gradients(seed: int) -> None:
    """The nearest vector to g that does not point against g_ref."""
    g, reference = torch.randn((2, 50), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = projected_averaged(g, reference)
    along = sum(a * b for a, b in zip(g.tolist(), reference.tolist(), strict=True))
    square = sum(b * b for b in reference.tolist())
    expected = g if along >= 0 else g - along / square * reference
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
    assert found @ reference > -1e-6


def traced(**params: Any) -> tuple[Engine, list[tuple[Tensor, Tensor, Tensor | None]]]:
    """Each step's gradient before and after projection, and that of the drawn examples, computed apart."""
    steps: list[tuple[Tensor, Tensor, Tensor | None]] = []
    strategy = make_strategy("a-gem", memory=30, **params)
    part = strategy.parts[2]
    drawn: list[dict[str, Tensor]] = []

    def total() -> Tensor:
        return as_vector([p.grad.clone() for p in run.parameters().values()])

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point == "extend":
            drawn.clear()
        if point != "gradients":
            return call()
        before = total()
        call()
        reference = None
        if drawn:
            loss = F.cross_entropy(run.model(drawn[0]["x"]), drawn[0]["y"])
            reference = as_vector(torch.autograd.grad(loss, list(run.parameters().values())))
        steps.append((before, total(), reference))
        return None

    watch(part, probe)
    benchmark = tiny_benchmark()
    run = tiny_run(strategy, benchmark, model=tiny_model(benchmark, norm=False))
    draw = part.keeper.memory.draw

    def recorded(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        drawn.append(draw(n, generator))
        return drawn[0]

    part.keeper.memory.draw = recorded
    run.fit()
    return run, steps


def test_every_step_of_a_run() -> None:
    run, steps = traced(draw=8)
    assert run.step == len(steps) == 12
    assert all(reference is None and torch.equal(before, after) for before, after, reference in steps[:4])
    violated = 0
    for before, after, reference in steps[4:]:
        assert reference is not None
        along = before.double() @ reference.double()
        expected = (
            before.double() - min(along.item(), 0.0) / (reference.double() @ reference.double()) * reference
        )
        torch.testing.assert_close(after.double(), expected, rtol=1e-4, atol=1e-6)
        violated += bool(along < 0)
    assert violated > 0


def test_reference_examples_are_of_past_experiences() -> None:
    run, _ = traced()
    memory, counts = run.strategy.parts[1].memory, run.strategy.parts[1].counts
    assert counts == [10, 10, 10]
    for k, y in enumerate(memory["y"].split(counts)):
        assert set(y.tolist()) == {2 * k, 2 * k + 1}


@pytest.mark.parametrize(("capacity", "counts"), [(11, [4, 4, 3]), (2, [1, 1, 0]), (500, [64, 64, 64])])
def test_experiences_have_equal_shares(capacity: int, counts: list[int]) -> None:
    strategy = make_strategy("a-gem", memory=capacity)
    benchmark = tiny_benchmark()
    tiny_run(strategy, benchmark, model=tiny_model(benchmark, norm=False)).fit()
    assert strategy.parts[1].counts == counts
    assert len(strategy.parts[1].memory) == sum(counts)


def test_first_examples_or_random_ones() -> None:
    benchmark = tiny_benchmark()
    first, random = (make_strategy("a-gem", memory=30, first=first) for first in (True, False))
    for strategy in (first, random):
        tiny_run(strategy, benchmark).fit()
    for kept, exp in zip(first.parts[1].memory["x"].split(10), benchmark.train, strict=True):
        assert torch.equal(kept, exp.data.x()[:10])
    kept = {row.numpy().tobytes() for row in random.parts[1].memory["x"][:10]}
    own = {row.numpy().tobytes() for row in benchmark.train[0].data.x()}
    assert len(kept) == 10
    assert kept <= own
    assert kept != {row.numpy().tobytes() for row in first.parts[1].memory["x"][:10]}


def test_the_memory_passes_before_the_stream_as_gem_does() -> None:
    orders: list[list[str]] = []
    strategy = make_strategy("a-gem", memory=30)

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point == "extend":
            orders.append([])
        return call()

    watch(strategy.parts[2], probe)
    run = tiny_run(strategy, tiny_benchmark())
    forward, draw = run.forward, strategy.parts[1].memory.draw

    def forwarded(x: Tensor, task: Tensor | None = None) -> Any:
        orders[-1].append("pass")
        return forward(x, task)

    def drawn(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        orders[-1].append("draw")
        return draw(n, generator)

    run.forward, strategy.parts[1].memory.draw = forwarded, drawn  # type: ignore[method-assign]
    run.fit()
    assert orders == [["pass"]] * 4 + [["draw", "pass", "pass"]] * 8


def test_parts() -> None:
    _, episodes, project = make_strategy("a-gem").parts
    assert isinstance(episodes, Episodes)
    assert isinstance(project, ProjectAveraged)
    assert project.keeper is episodes
