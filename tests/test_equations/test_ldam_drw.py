"""LDAM-DRW: margins 0.5 n^−¼ / max, scores times 30, weights (1 − β) / (1 − β^n) from a pass on."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from clbench.strategies.ldam_drw import Margins, effective_weights, ldam_margins

from clbench import make_strategy
from clbench.parts import NormalisedHead
from clbench.testing import tiny_run
from clbench.types import Benchmark


def test_golden_values() -> None:
    n = torch.tensor([500.0, 5.0])
    assert ldam_margins(n, 0.5).tolist() == pytest.approx([0.1581, 0.5], abs=5e-5)
    assert effective_weights(n, 0.9999).tolist() == pytest.approx([0.0203, 1.9797], abs=5e-5)
    assert effective_weights(n, 0.0).tolist() == [1, 1]


def test_classes_that_have_not_come_count_nowhere() -> None:
    n = torch.tensor([500.0, 0.0, 5.0])
    assert ldam_margins(n, 0.5).tolist() == pytest.approx([0.1581, 0, 0.5], abs=5e-5)
    assert effective_weights(n, 0.9999).tolist() == pytest.approx([0.0203, 0, 1.9797], abs=5e-5)


class _At:
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch


@pytest.mark.parametrize("epoch", [159, 160, 5000])
def test_against_the_definition_on_fresh_tensors(epoch: int) -> None:
    generator = torch.Generator().manual_seed(7)
    z = torch.rand(12, 4, generator=generator) * 2 - 1
    y, n = torch.randint(4, (12,), generator=generator), [500, 300, 5, 1]
    part = Margins(0.5, 30.0, 160, 0.9999)
    part.n = torch.tensor(n, dtype=torch.float32)
    part.run = _At(epoch)  # type: ignore[assignment]
    m = [0.5 * k**-0.25 / max(j**-0.25 for j in n) for k in n]
    beta = 0.9999 if epoch >= 160 else 0.0
    w = [(1 - beta) / (1 - beta**k) for k in n]
    w = [4 * v / sum(w) for v in w]
    rows = []
    for scores, label in zip(z.double().tolist(), y.tolist(), strict=True):
        s = [30 * (v - (m[c] if c == label else 0)) for c, v in enumerate(scores)]
        rows.append(w[label] * (math.log(sum(math.exp(v) for v in s)) - s[label]))
    weights = sum(w[label] for label in y.tolist())
    assert part.loss(z, y, "none").tolist() == pytest.approx(rows, rel=2e-6, abs=1e-6)
    assert float(part.loss(z, y)) == pytest.approx(sum(rows) / weights, rel=2e-6)


def test_the_head_is_normalised(few_shot_benchmark: Callable[..., Benchmark]) -> None:
    run = tiny_run(make_strategy("joint+ldam-drw", defer=1), few_shot_benchmark())
    run.fit()
    assert isinstance(run.model.head.inner, NormalisedHead)
    assert run.model.head.inner.scale == 1
