"""GEM: g + Gᵀv where any ⟨G_i, g⟩ < 0; v = argmin ½ vᵀ(GGᵀ + 10⁻³ I)v + (Gg)ᵀv subject to v_i ≥ γ."""

from __future__ import annotations

import itertools
from fractions import Fraction
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


def ill_conditioned(kind: str, k: int = 5) -> Tensor:
    """(k, 40) references, float64."""
    G = torch.randn((k, 40), generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    if kind == "equal":
        G[:] = G[0].clone()
    elif kind == "opposite":
        G[1] = -G[0]
    elif kind == "one is 0":
        G[1] = 0
    elif kind == "near":
        G = G[:1] + 1e-6 * G
    elif kind == "of many scales":
        G = G * 10.0 ** torch.arange(-8, 2 * k - 8, 2, dtype=torch.float64)[:, None]
    return G


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 70.0, 1e6])
@pytest.mark.parametrize("kind", ["random", "equal", "opposite", "one is 0", "near", "of many scales"])
def test_gradients_of_any_scale_and_collinear_ones(kind: str, scale: float, margin: float) -> None:
    """In exact arithmetic, v_i > γ only where the gradient of the program is 0, which is Gg̃ + 10⁻³ v, and else ≥ 0."""
    G = scale * ill_conditioned(kind)
    g = scale * torch.randn(40, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    g = g - G.sum(0) / len(G)
    found = projected_each(g, G, margin)
    assert bool((G @ g < 0).any())
    exact, v = solved(g, G, margin)
    size = max(g.norm(), found.norm(), margin * G.norm(dim=1).max())
    assert (found - exact).norm() <= 1e-9 * size
    single = projected_each(g.float(), G.float(), margin).double()
    # What float32 holds of G, v of them added up.
    assert (single - exact).norm() <= 1e-5 * (g.norm() + (v[:, None] * G).norm(dim=1).sum())


def solved(g: Tensor, references: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """g̃ and v by trying every set of constraints that may be tight, in rational numbers."""
    rows = [[Fraction(value) for value in row] for row in references.tolist()]
    k, ridge = len(rows), Fraction(1, 1000)
    along = [sum(a * Fraction(b) for a, b in zip(row, g.tolist(), strict=True)) for row in rows]
    matrix = [[sum(a * b for a, b in zip(r, s, strict=True)) for s in rows] for r in rows]
    for i in range(k):
        matrix[i][i] += ridge
    for tight in itertools.product([False, True], repeat=k):
        v = [Fraction(margin)] * k
        free = [i for i in range(k) if not tight[i]]
        rest = [-along[i] - sum(matrix[i][j] * v[j] for j in range(k) if tight[j]) for i in free]
        for i, value in zip(
            free, eliminated([[matrix[i][j] for j in free] for i in free], rest), strict=True
        ):
            v[i] = value
        slope = [along[i] + sum(matrix[i][j] * v[j] for j in range(k)) for i in range(k)]
        if all(v[i] >= margin for i in free) and all(slope[i] >= 0 for i in range(k) if tight[i]):
            moved = [sum(v[i] * rows[i][p] for i in range(k)) for p in range(len(g))]
            as_floats = [float(Fraction(a) + b) for a, b in zip(g.tolist(), moved, strict=True)]
            return torch.tensor(as_floats, dtype=torch.float64), torch.tensor([float(x) for x in v])
    raise AssertionError("a strictly convex program has a solution")


def eliminated(matrix: list[list[Fraction]], right: list[Fraction]) -> list[Fraction]:
    """x of matrix x = right, by Gauss's elimination; the matrix is positive definite."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i, pivot in enumerate(rows):
        pivot[:] = [value / pivot[i] for value in pivot]
        for j, row in enumerate(rows):
            if j != i:
                row[:] = [a - row[i] * b for a, b in zip(row, pivot, strict=True)]
    return [row[-1] for row in rows]


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
        if point != "gradients":
            return call()
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
            return None
        table = torch.stack(references)
        expected = before.double() + best(before, table, 0.1) @ table.double()
        torch.testing.assert_close(total().double(), expected, rtol=1e-3, atol=1e-5)
        violated.append(True)
        return None

    watch(part, probe)
    benchmark = tiny_benchmark()
    run = tiny_run(strategy, benchmark, model=tiny_model(benchmark, norm=False))
    run.fit()
    assert len(violated) == 12
    assert not any(violated[:4])
    assert any(violated[4:])


def test_memories_pass_before_the_stream() -> None:
    """So do the authors': BatchNorm's statistics see all past experiences, in order, and the stream last."""
    passes: list[tuple[int, Tensor]] = []
    strategy = make_strategy("gem", memory=30)
    benchmark = tiny_benchmark()
    run = tiny_run(strategy, benchmark, model=tiny_model(benchmark, norm=True))
    forward = run.forward

    def forwarded(x: Tensor, task: Tensor | None = None) -> Any:
        if run.experience == 2 and run.model.training:
            passes.append((run.step, x))
        return forward(x, task)

    run.forward = forwarded  # type: ignore[method-assign]
    run.fit()
    first = [x for step, x in passes if step == passes[0][0]]
    x = strategy.parts[1].memory["x"]
    assert torch.equal(first[0], x[:10])
    assert torch.equal(first[1], x[10:20])
    assert len(first) == 3
