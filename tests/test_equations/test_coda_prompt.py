"""CODA-Prompt: weights of components, Gram–Schmidt, and what an experience trains and reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clbench.strategies.coda_prompt import KINDS, orthogonality, orthonormal, weighted, weights
from torch import Tensor
from torch.nn import functional as F

from clbench import Experience, Strategy, chain, make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.testing import tiny_benchmark, tiny_run, tiny_vit

SMALL: dict[str, Any] = {"pool": 12, "length": 4, "layers": (0, 1)}


def run_of(*others: Strategy, optim: OptimConfig | None = None, **params: Any) -> Engine:
    benchmark = tiny_benchmark(images=True)
    strategy = chain(make_strategy("coda-prompt", **{**SMALL, **params}), *others)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tiny_vit(benchmark)
    return tiny_run(strategy, benchmark, model=model, optim=optim)


def coda(run: Engine) -> Any:
    return run.strategy.parts[0]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_weights_by_hand() -> None:
    q = torch.tensor([[1.0, 2.0]])
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, -1.0]])
    k = torch.tensor([[2.0, 5.0], [1.0, 2.0], [1.0, 1.0]])
    torch.testing.assert_close(
        weights(q, k, a), torch.tensor([[0.371391, 1.0, -0.707107]]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("seed", range(3))
def test_weights_and_prompt_by_the_definition(seed: int) -> None:
    q, k, a, p = normal(4, 9, seed=seed), normal(5, 9, seed=1), normal(5, 9, seed=2), normal(5, 6, 9, seed=3)
    alpha = torch.stack([F.cosine_similarity(q * a[m], k[m : m + 1]) for m in range(5)], dim=1)
    torch.testing.assert_close(weights(q, k, a), alpha)
    expected = sum(alpha[:, m, None, None] * p[m] for m in range(5))
    torch.testing.assert_close(weighted(alpha, p), expected)
    for parameter in (q, k, a):
        parameter.requires_grad_()
    want = torch.autograd.grad(
        torch.stack([F.cosine_similarity(q * a[m], k[m : m + 1]) for m in range(5)], 1).sin().sum(), [q, k, a]
    )
    torch.testing.assert_close(torch.autograd.grad(weights(q, k, a).sin().sum(), [q, k, a]), want)


def test_orthogonality_by_hand() -> None:
    """X Xᵀ − I = ((0, 1), (1, 1)): 3 / 4."""
    assert orthogonality(torch.tensor([[1.0, 0.0], [1.0, 1.0]])).item() == pytest.approx(0.75)
    assert orthogonality(torch.eye(3).view(3, 3, 1)).item() == 0


def test_gram_schmidt() -> None:
    rng = torch.Generator().manual_seed(0)
    first = orthonormal(torch.zeros(0, 16), 5, rng)
    torch.testing.assert_close(first @ first.T, torch.eye(5), rtol=0, atol=1e-6)
    more = orthonormal(3 * first, 4, rng)  # whatever the lengths of those before
    both = torch.cat([first, more])
    torch.testing.assert_close(both @ both.T, torch.eye(9), rtol=0, atol=1e-6)
    # Those before are no longer orthogonal: each new row is noise less its projections onto them, one by one.
    skew, seed = normal(3, 16), torch.Generator().manual_seed(1)
    noise = torch.randn(16, generator=torch.Generator().manual_seed(1))
    row = noise - sum((noise @ u) / (u @ u) * u for u in skew)
    torch.testing.assert_close(orthonormal(skew, 1, seed)[0], row / row.norm(), rtol=0, atol=1e-6)


def test_the_first_slice_is_orthonormal_and_later_ones_have_unit_rows_when_they_begin() -> None:
    seen: list[Tensor] = []

    class Look(Strategy):
        def begin_experience(self, exp: Experience) -> None:
            for kind in KINDS:
                slices = getattr(coda(self.run).prompter, kind)
                for layer in slices[exp.index]:
                    seen.append(layer.flatten(1).detach().clone())

    run = run_of(Look())
    assert coda(run).prompter.prompts[0].shape == (2, 4, 4, 32)
    assert not coda(run).prompter.prompts[1].any()
    run.fit()
    assert len(seen) == 18
    for rows in seen[:6]:
        torch.testing.assert_close(rows @ rows.T, torch.eye(4), rtol=0, atol=1e-6)
    for rows in seen[6:]:  # those before them have been trained, and are not orthogonal any more
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(4))


def test_all_components_may_be_orthogonal_together() -> None:
    run = run_of(init="orthogonal")
    for kind in KINDS:
        rows = torch.cat([part[1].flatten(1) for part in getattr(coda(run).prompter, kind)])
        torch.testing.assert_close(rows @ rows.T, torch.eye(12), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "optim", [OptimConfig(lr=0.1, momentum=0.9, reset=False), OptimConfig(name="adam", lr=0.1)]
)
def test_an_experience_moves_its_own_slice_only(optim: OptimConfig) -> None:
    moved: list[list[bool]] = []

    class Look(Strategy):
        def begin_experience(self, exp: Experience) -> None:
            self.before = [p.detach().clone() for p in coda(self.run).prompter.prompts]

        def end_experience(self, exp: Experience) -> None:
            pairs = zip(coda(self.run).prompter.prompts, self.before, strict=True)
            moved.append([not torch.equal(p, b) for p, b in pairs])

    run_of(Look(), optim=optim, orthogonality=0.1).fit()
    assert moved == [[i == t for i in range(3)] for t in range(3)]


def test_slices_of_experiences_to_come_are_never_read() -> None:
    class Poison(Strategy):
        def begin_experience(self, exp: Experience) -> None:
            for kind in KINDS:
                for later in getattr(coda(self.run).prompter, kind)[exp.index + 1 :]:
                    later.data.fill_(torch.nan)

    run = run_of(Poison(), orthogonality=0.1)
    clean = run_of(orthogonality=0.1)
    run.fit(), clean.fit()
    assert all(
        torch.equal(a, b) for a, b in zip(run.model.parameters(), clean.model.parameters(), strict=True)
    )


def test_orthogonality_of_a_run_is_summed_over_kinds_and_layers_of_what_is_used() -> None:
    run = run_of(orthogonality=0.5, init="orthogonal")
    p = coda(run).prompter
    with torch.no_grad():
        for parameter in p.parameters():
            parameter += 0.1 * normal(*parameter.shape)
    coda(run).current = 1
    unused: Any = None
    loss = coda(run).losses(unused, unused)["orthogonality"]
    total = torch.zeros(())
    for kind in KINDS:
        for layer in (0, 1):
            x = torch.cat([getattr(p, kind)[t][layer].flatten(1) for t in (0, 1)])
            total = total + ((x @ x.T - torch.eye(8)) ** 2).sum() / 64
    torch.testing.assert_close(loss, 0.5 * total)
    gradients = torch.autograd.grad(loss, [p.keys[0], p.keys[1], p.keys[2]], allow_unused=True)
    assert [g is not None for g in gradients] == [False, True, False]


@pytest.mark.parametrize(("pool", "says"), [(36, "Set coda-prompt.pool=32 or less"), (2, "pool=3 or more")])
def test_pools_that_do_not_fit_are_refused(pool: int, says: str) -> None:
    with pytest.raises(IncompatibleError, match=says):
        run_of(pool=pool)
