"""Balanced loss: Σ w_y CE / Σ w_y with w_c ∝ 1 / n_c, of sum 1."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from clbench.strategies.balanced_loss import InverseWeights, inverse_weights

from clbench import make_strategy
from clbench.testing import tiny_run
from clbench.types import Benchmark


def test_golden_values() -> None:
    assert inverse_weights(torch.tensor([500.0, 5.0])).tolist() == pytest.approx([0.0099, 0.9901], abs=5e-5)
    assert inverse_weights(torch.tensor([500.0, 0.0, 5.0])).tolist() == pytest.approx(
        [0.0099, 0, 0.9901], abs=5e-5
    )


def test_against_the_definition_on_fresh_tensors() -> None:
    generator = torch.Generator().manual_seed(8)
    z, n = torch.randn(15, 5, generator=generator) * 2, [500.0, 400.0, 5.0, 5.0, 1.0]
    y = torch.randint(5, (15,), generator=generator)
    part = InverseWeights()
    part.n = torch.tensor(n)
    p = z.double().softmax(1)[torch.arange(15), y]
    w = torch.tensor([(1 / n[c]) / sum(1 / k for k in n) for c in y.tolist()]).double()
    torch.testing.assert_close(part.loss(z, y, "none").double(), -w * p.log(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(part.loss(z, y).double(), -(w * p.log()).sum() / w.sum(), rtol=1e-6, atol=1e-6)


def test_counts_are_the_streams(few_shot_benchmark: Callable[..., Benchmark]) -> None:
    run = tiny_run(make_strategy("joint+restart+balanced-loss"), few_shot_benchmark())
    run.fit()
    part = next(p for p in run.strategy.parts if isinstance(p, InverseWeights))
    assert part.n.tolist() == [24] * 4 + [3] * 4
