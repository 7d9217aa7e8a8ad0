"""Fine-tuning: plain gradient descent on the mean cross-entropy of the stream's batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clbench import Classifier, make_strategy
from clbench.config import OptimConfig
from clbench.testing import tiny_benchmark, tiny_run


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_step_is_softmax_regression(seed: int) -> None:
    """W ← W − η/B Σ (p − onehot(y)) xᵀ and b ← b − η/B Σ (p − onehot(y)), in float64."""
    benchmark = tiny_benchmark(experiences=1, classes=3, seed=seed)
    model = Classifier(nn.Identity(), 8, 3)
    data = benchmark.train[0].data
    x, y = data.x().double(), data.y()
    W, b = (p.detach().double().clone() for p in model.head.parameters())

    run = tiny_run(
        make_strategy("finetune"),
        benchmark,
        model=model,
        batch_size=len(x),
        epochs=1,
        optim=OptimConfig(lr=0.3),
    )
    run.fit()

    z = x @ W.T + b
    residual = (z.exp() / z.exp().sum(1, keepdim=True) - torch.eye(3)[y]) / len(x)
    torch.testing.assert_close(model.head.weight.double(), W - 0.3 * residual.T @ x, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.head.bias.double(), b - 0.3 * residual.sum(0), rtol=1e-5, atol=1e-6)
