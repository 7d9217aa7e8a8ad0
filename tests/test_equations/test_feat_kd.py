"""FeatKD: μ · mean over rows and features of (φ − φ_teacher)²."""

from __future__ import annotations

import pytest
import torch
from clbench.strategies.feat_kd import KeepFeatures
from torch import Tensor, nn

from clbench import Batch, Classifier, Output, make_strategy
from clbench.engine.engine import Engine
from clbench.parts import teacher_of
from clbench.testing import tiny_benchmark, tiny_run


class Says(nn.Module):
    """The same features of every input."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("said", features)

    def forward(self, x: Tensor) -> Tensor:
        return self.said.expand(len(x), -1)


def penalty(run: Engine, features: Tensor) -> Tensor:
    zeros = torch.zeros(len(features), dtype=torch.int64)
    x = torch.zeros((len(features), 8))
    batch = Batch(x, zeros, zeros - 1, x, zeros, zeros, len(features))
    part = next(part for part in run.strategy.parts if isinstance(part, KeepFeatures))
    return part.losses(batch, Output(torch.zeros((len(features), 6)), features))["features"]


def keeping(teacher: Tensor, strength: float) -> Engine:
    run = tiny_run(make_strategy("feat-kd", strength=strength), tiny_benchmark())
    teacher_of(run).network = Classifier(Says(teacher), len(teacher), 6)
    return run


def test_one_row_by_hand() -> None:
    """(1, 2) and (0, 0): (1 + 4) / 2 = 2.5, gradient (1, 2)."""
    features = torch.tensor([[1.0, 2.0]], requires_grad=True)
    value = penalty(keeping(torch.zeros(2), 1.0), features)
    (gradient,) = torch.autograd.grad(value, features)
    assert value.item() == 2.5
    assert gradient.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("seed", [0, 1])
def test_random_features(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher, features = torch.randn(7, generator=generator), torch.randn((5, 7), generator=generator)
    expected = 3.0 * sum((features[b, d] - teacher[d]) ** 2 for b in range(5) for d in range(7)) / 35
    torch.testing.assert_close(penalty(keeping(teacher, 3.0), features), expected)


def test_the_initial_model_is_the_first_teacher() -> None:
    run = tiny_run(make_strategy("feat-kd"), tiny_benchmark(experiences=1))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    for name, value in teacher_of(run).network.state_dict().items():
        assert torch.equal(value, before[name])


def test_not_from_the_start_waits_for_a_boundary() -> None:
    run = tiny_run(make_strategy("feat-kd", from_start=False), tiny_benchmark())
    part = next(part for part in run.strategy.parts if isinstance(part, KeepFeatures))
    zeros = torch.zeros(2, dtype=torch.int64)
    x = torch.zeros((2, 8))
    batch = Batch(x, zeros, zeros - 1, x, zeros, zeros, 2)
    assert part.losses(batch, Output(torch.zeros((2, 6)), torch.zeros((2, 16)))) == {}
