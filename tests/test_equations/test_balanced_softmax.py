"""Balanced softmax: CE(z + ln(n / Σ n), y) in training, z alone at prediction."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from clbench.strategies.balanced_softmax import BalancedSoftmax, log_prior

from clbench import make_strategy
from clbench.errors import IncompatibleError
from clbench.testing import tiny_run
from clbench.types import MASKED, Benchmark


def loss(z: torch.Tensor, n: list[int], y: list[int]) -> float:
    part = BalancedSoftmax()
    part.n = torch.tensor(n, dtype=torch.float32)
    return float(part.loss(z, torch.tensor(y)))


def test_golden_value() -> None:
    """Equal logits, n = (9, 1), the rare label: ln 10."""
    assert loss(torch.zeros(1, 2), [9, 1], [1]) == pytest.approx(math.log(10), abs=1e-6)
    assert loss(torch.zeros(1, 2), [9, 1], [0]) == pytest.approx(math.log(10 / 9), abs=1e-6)


def test_against_the_definition_on_fresh_tensors() -> None:
    """−ln (n_y e^z_y / Σ_c n_c e^z_c), mean over rows."""
    generator = torch.Generator().manual_seed(11)
    z, n = torch.randn(20, 6, generator=generator) * 3, [500, 500, 500, 5, 5, 1]
    y = torch.randint(6, (20,), generator=generator)
    e = z.double().exp() * torch.tensor(n)
    expected = -(e[torch.arange(20), y] / e.sum(1)).log()
    part = BalancedSoftmax()
    part.n = torch.tensor(n, dtype=torch.float32)
    torch.testing.assert_close(part.loss(z, y, "none").double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(part.loss(z, y).double(), expected.mean(), rtol=1e-6, atol=1e-6)


def test_a_class_without_examples_is_out_of_the_question() -> None:
    prior = log_prior(torch.tensor([3.0, 0.0, 1.0]))
    assert prior.tolist() == pytest.approx([math.log(0.75), MASKED, math.log(0.25)])
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    torch.nn.functional.cross_entropy(z + prior, torch.tensor([0, 2, 0, 2])).backward()
    assert z.grad is not None
    assert (z.grad[:, 1] == 0).all()


def test_counts_follow_the_columns_and_the_stream(few_shot_benchmark: Callable[..., Benchmark]) -> None:
    for strategy in ("joint+balanced-softmax", "finetune+balanced-softmax"):
        run = tiny_run(make_strategy(strategy), few_shot_benchmark())
        part = next(p for p in run.strategy.parts if isinstance(p, BalancedSoftmax))
        counts = []
        for exp in run.train:
            part.begin_experience(exp)
            counts.append(part.n.tolist())
        assert counts == [[24] * 4 + [0] * 4, [24] * 4 + [3, 3, 0, 0], [24] * 4 + [3] * 4]


def test_prediction_is_not_shifted(few_shot_benchmark: Callable[..., Benchmark]) -> None:
    run = tiny_run(make_strategy("joint+balanced-softmax"), few_shot_benchmark())
    run.fit()
    x = run.benchmark.test[0].data.x()
    with run.evaluating(), torch.no_grad():
        plain = run.model.head.inner(run.model.features(x))
        assert torch.equal(run.predict(x, torch.full((len(x),), -1)), plain)


def test_equal_counts_are_cross_entropy_over_the_seen_classes() -> None:
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    y = torch.tensor([0, 1, 2, 0, 1])
    expected = torch.nn.functional.cross_entropy(z[:, :3], y)
    assert loss(z, [7, 7, 7, 0], y.tolist()) == pytest.approx(float(expected), abs=1e-6)


def test_two_losses_on_the_labels_are_refused(few_shot_benchmark: Callable[..., Benchmark]) -> None:
    with pytest.raises(IncompatibleError, match="both bring the loss on the labels"):
        tiny_run(make_strategy("joint+balanced-softmax+ldam-drw"), few_shot_benchmark())
