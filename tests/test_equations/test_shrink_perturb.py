"""Shrink and perturb: θ ← λ θ + σ ξ when an experience but the first begins."""

from __future__ import annotations

import torch
from torch import Tensor

from clbench import Experience, Strategy, chain, make_strategy
from clbench.testing import tiny_benchmark, tiny_run


def begun(**params: float) -> list[tuple[Tensor, Tensor]]:
    """All weights at the end of each experience but the last, and when the next one begins."""
    ends: list[Tensor] = []
    begins: list[Tensor] = []

    class Record(Strategy):
        def begin_experience(self, exp: Experience) -> None:
            begins.append(torch.cat([p.detach().flatten() for p in self.run.parameters().values()]))

        def end_experience(self, exp: Experience) -> None:
            ends.append(torch.cat([p.detach().flatten() for p in self.run.parameters().values()]))

    tiny_run(chain(make_strategy("finetune+shrink-perturb", **params), Record()), tiny_benchmark()).fit()
    return list(zip(ends[:-1], begins[1:], strict=True))


def test_weights_shrink() -> None:
    for end, begin in begun(shrink=0.25, noise=0.0):
        assert torch.equal(begin, 0.25 * end)


def test_noise_is_standard_normal() -> None:
    """Of some 300 draws, mean and deviation within 5 of their standard errors; and not the same twice."""
    draws = [(begin - 0.5 * end) / 0.1 for end, begin in begun(shrink=0.5, noise=0.1)]
    for xi in draws:
        n = len(xi)
        assert abs(xi.mean()) < 5 / n**0.5
        assert abs(xi.std() - 1) < 5 / (2 * n) ** 0.5
    assert not torch.equal(draws[0], draws[1])
