"""Regenerative regularisation: λ Σ_j (θ_j − θ⁰_j)², θ⁰ the initial weights, for ever."""

from __future__ import annotations

from typing import Any

import torch

from clbench import make_strategy
from clbench.testing import tiny_benchmark, tiny_run


def test_the_anchor_is_where_training_began() -> None:
    unused: Any = None
    run = tiny_run(make_strategy("finetune+regenerate", strength=0.3), tiny_benchmark())
    start = {name: p.detach().clone() for name, p in run.parameters().items()}
    run.fit()
    theta = run.parameters()
    loss = run.strategy.parts[1].losses(unused, unused)["regenerate"]
    expected = 0.3 * sum(((theta[n].detach() - w).double() ** 2).sum() for n, w in start.items())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    for (name, p), g in zip(theta.items(), torch.autograd.grad(loss, list(theta.values())), strict=True):
        torch.testing.assert_close(g, 0.6 * (p.detach() - start[name]))
