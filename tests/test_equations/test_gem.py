"""GEM: g + Gᵀv where any ⟨G_i, g⟩ < 0; v = argmin ½ vᵀ(GGᵀ + 10⁻³ I)v + (Gg)ᵀv subject to v_i ≥ γ."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import make_strategy
from clbench.parts import as_vector, projected_each
from clbench.testing import tiny_benchmark, tiny_model, tiny_run, watch


def best(g: Tensor, references: Tensor, margin: float) -> Tensor:
    """v (k,) by trying every set of constraints that may be tight, in float64."""
    g, references = g.double(), references.double()
    k = len(references)
    matrix, along = references @ references.T + 1e-3 * torch.eye(k, dtype=torch.float64), references @ g
    found: list[tuple[float, Tensor]] = []
    for tight in itertools.product([False, True], repeat=k):
        at, free = torch.tensor(tight), ~torch.tensor(tight)
        v = torch.full((k,), margin, dtype=torch.float64)
        if free.any():
            rest = -along[free] - matrix[free][:, at] @ v[at]
            v[free] = torch.linalg.solve(matrix[free][:, free], rest)
        if (v >= margin - 1e-12).all():
            found.append((float(v @ matrix @ v / 2 + along @ v), v))
    return min(found, key=lambda pair: pair[0])[1]


@pytest.mark.parametrize(("margin", "v"), [(0.5, 0.5), (0.0, 1 / 2.001)])
def test_by_hand(margin: float, v: float) -> None:
    """g = (1, 0), G = (−1, 1): v = 1 / 2.001 unless the margin asks for more; with ½, g̃ = (½, ½) and ⟨G, g̃⟩ = 0."""
    g, references = torch.tensor([1.0, 0.0]), torch.tensor([[-1.0, 1.0]])
    found = projected_each(g, references, margin)
    torch.testing.assert_close(found, torch.tensor([1 - v, v]), atol=1e-6, rtol=0)
    assert v == pytest.approx(0.5 if margin else 0.49975, abs=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize(("seed", "k"), [(0, 1), (1, 2), (2, 3), (3, 5), (4, 8)])
def test_random_gradients(seed: int, k: int, margin: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    g, references = torch.randn(30, generator=generator), torch.randn((k, 30), generator=generator)
    references[0] -= g  # so that one is violated
    expected = g.double() + best(g, references, margin) @ references.double()
    torch.testing.assert_close(projected_each(g, references, margin).double(), expected, rtol=1e-4, atol=1e-4)


def test_constraints_that_are_nearly_the_same() -> None:
    """Their matrix is singular but for the ridge."""
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(30, generator=generator, dtype=torch.float64)
    references = -g + 1e-6 * torch.randn((4, 30), generator=generator, dtype=torch.float64)
    found = projected_each(g, references, 0.0)
    torch.testing.assert_close(found, g + best(g, references, 0.0) @ references, rtol=1e-6, atol=1e-6)


def test_nothing_changes_where_no_loss_would_rise() -> None:
    g = torch.tensor([1.0, 2.0])
    for reference in ([[1.0, 0.0], [2.0, -1.0]], [[float("nan"), 1.0]], [[float("inf"), 1.0]]):
        assert projected_each(g, torch.tensor(reference), 0.5) is g


def test_every_step_of_a_run() -> None:
    """G_i is the gradient of the mean cross-entropy of all that is kept of experience i."""
    violated: list[bool] = []
    strategy = make_strategy("gem", memory=30, margin=0.1)
    _, episodes, part = strategy.parts

    def total() -> Tensor:
        return as_vector([p.grad.clone() for p in run.parameters().values()])

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        before = total()
        call()
        past = run.experience
        rows = [
            (episodes.memory["x"][10 * i :][:10], episodes.memory["y"][10 * i :][:10]) for i in range(past)
        ]
        theta = list(run.parameters().values())
        references = [
            as_vector(torch.autograd.grad(F.cross_entropy(run.model(x), y), theta)) for x, y in rows
        ]
        if not references or all(before @ reference >= 0 for reference in references):
            assert torch.equal(total(), before)
            violated.append(False)
            return
        table = torch.stack(references)
        expected = before.double() + best(before, table, 0.1) @ table.double()
        torch.testing.assert_close(total().double(), expected, rtol=1e-3, atol=1e-5)
        violated.append(True)

    watch(part, probe)
    benchmark = tiny_benchmark()
    run = tiny_run(strategy, benchmark, model=tiny_model(benchmark, norm=False))
    run.fit()
    assert len(violated) == 12
    assert not any(violated[:4])
    assert any(violated[4:])
