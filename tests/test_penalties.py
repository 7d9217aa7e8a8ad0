"""Sums of squared gradients: one product of matrices for linear layers, one gradient per example for others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import make_strategy
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.models import Classifier
from clbench.parts import penalties, summed_gradients
from clbench.testing import tiny_benchmark, tiny_run


def loss(logits: Tensor, y1: Tensor) -> Tensor:
    return F.cross_entropy(logits, y1[None])


def run_of(backbone: nn.Module, size: int) -> Engine:
    return tiny_run(make_strategy("finetune"), tiny_benchmark(), model=Classifier(backbone, size, 6))


def one_by_one(run: Engine, x: Tensor, y: Tensor, weights: Tensor) -> dict[str, Tensor]:
    total = {name: torch.zeros_like(p) for name, p in run.parameters().items()}
    for x1, y1, w in zip(x, y, weights, strict=True):
        gradients = torch.autograd.grad(
            F.cross_entropy(run.model(x1[None]), y1[None]), [*run.parameters().values()]
        )
        for name, g in zip(total, gradients, strict=True):
            total[name] += w * g**2
    return total


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 7, bias=False), nn.Tanh())


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 7), nn.LayerNorm(7), nn.ReLU())


def tied() -> nn.Module:
    backbone = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 7))
    backbone[2].weight = backbone[0].weight
    return backbone


@pytest.mark.parametrize("backbone", [linear, normed, tied])
def test_the_sum_is_that_over_single_examples(backbone: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    run = run_of(backbone(), 7)
    x, y, weights = torch.randn(9, 8), torch.randint(0, 6, (9,)), torch.rand(9)
    found, wanted = (
        summed_gradients(torch.square, run, loss, x, y, weights=weights),
        one_by_one(run, x, y, weights),
    )
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert torch.allclose(found[name], wanted[name], rtol=1e-5, atol=1e-9), name


def test_linear_networks_take_no_gradient_per_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(penalties, "per_example_gradients", None)
    run = run_of(linear(), 7)
    summed_gradients(
        torch.square, run, loss, torch.randn(4, 8), torch.zeros(4, dtype=torch.int64), weights=torch.ones(4)
    )


def test_frozen_weights_are_left_out() -> None:
    run = run_of(linear(), 7)
    next(run.model.parameters()).requires_grad_(False)
    found = summed_gradients(
        torch.square, run, loss, torch.randn(4, 8), torch.zeros(4, dtype=torch.int64), weights=torch.ones(4)
    )
    assert found.keys() == run.parameters().keys()
    assert len(found) == len(list(run.model.parameters())) - 1


def test_a_layer_in_two_places_is_refused_and_left_whole() -> None:
    layer = nn.Linear(8, 8)
    run = run_of(nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(8, 7)), 7)
    with pytest.raises(IncompatibleError, match="one layer in two places"):
        summed_gradients(
            torch.square,
            run,
            loss,
            torch.randn(4, 8),
            torch.zeros(4, dtype=torch.int64),
            weights=torch.ones(4),
        )
    assert isinstance(layer.weight, nn.Parameter)
