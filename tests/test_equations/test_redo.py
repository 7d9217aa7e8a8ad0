"""ReDo: units with E|h_i| ≤ τ · mean_k E|h_k| get fresh incoming and zero outgoing weights."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from clbench import make_model, make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.testing import tiny_benchmark, tiny_run


def looked(threshold: float, scales: list[float]) -> tuple[Engine, dict[str, torch.Tensor]]:
    """A run after one look at the first layer's units, whose responses are as large as `scales`; and θ before."""
    model = make_model("mlp", (8,), 6, hidden=(4, 5))
    with torch.no_grad():
        model.backbone[1].weight.zero_()
        model.backbone[1].bias.copy_(torch.tensor(scales))
        model.backbone[3].bias.fill_(10.0)  # all of the second layer respond alike
    strategy = make_strategy("finetune+redo", threshold=threshold, period=1)
    benchmark = tiny_benchmark(experiences=1, classes=6, examples=16)
    optim = OptimConfig(name="adam", lr=1e-9)
    run = tiny_run(strategy, benchmark, model=model, epochs=1, optim=optim)
    before = {name: p.detach().clone() for name, p in run.parameters().items()}
    run.fit()
    assert run.updates == 1
    return run, before


@pytest.mark.parametrize(
    ("threshold", "dormant"), [(0.0, [False] * 3 + [True]), (0.11, [True, False, False, True])]
)
def test_which_units_are_recycled(threshold: float, dormant: list[bool]) -> None:
    """Responses 0.1, 1, 2.9, 0 have mean 1: unit 3 is silent, unit 0 below 0.11."""
    run, before = looked(threshold, [0.1, 1.0, 2.9, -1.0])
    theta = run.parameters()
    into, out = theta["backbone.1.weight"], theta["backbone.3.weight"]
    assert (out == 0).all(0).tolist() == dormant
    drawn = (into - before["backbone.1.weight"]).abs().amax(1) > 1e-6
    assert drawn.tolist() == dormant
    assert into[drawn].abs().max() <= 8**-0.5
    assert ((theta["backbone.1.bias"] == 0) == torch.tensor(dormant)).all()


def test_moments_of_recycled_entries_are_forgotten() -> None:
    run, _ = looked(0.11, [0.1, 1.0, 2.9, -1.0])
    out = run.parameters()["backbone.3.weight"]
    moments = run.optimizer.state[out]["exp_avg"]
    assert (moments[:, [0, 3]] == 0).all()
    assert (moments[:, [1, 2]] != 0).any()


def recycled(norm: type[nn.Module] | None = None, strategy: str = "finetune+redo", **optim: Any) -> Engine:
    """A deep network, half of whose units were silenced, after one step and one look."""
    benchmark = tiny_benchmark(experiences=1, classes=6, examples=16)
    model = make_model("mlp", (8,), 6, hidden=(12, 10, 8))
    if norm is not None:
        layers = [
            m
            for m in model.backbone
            for m in ((m, norm(m.out_features)) if isinstance(m, nn.Linear) else (m,))
        ]
        model.backbone = nn.Sequential(*layers)
    with torch.no_grad():
        for module in model.backbone:
            if isinstance(module, norm or nn.Linear):
                module.bias[::2] = -1e3
    config = OptimConfig(**{"name": "adam", "lr": 1e-9, **optim})
    run = tiny_run(
        make_strategy(strategy, redo__threshold=0.0, redo__period=1),
        benchmark,
        model=model,
        epochs=1,
        optim=config,
    )
    run.fit()
    return run


@pytest.mark.parametrize("optim", [{"name": "adam"}, {"name": "sgd", "momentum": 0.9}])
def test_between_dormant_units_stands_nothing(optim: dict[str, Any]) -> None:
    """What is drawn for a dormant unit does not come back into the zeros of the dormant units before it."""
    run = recycled(**optim)
    linear = [m for m in run.model.modules() if isinstance(m, nn.Linear)]
    for before, layer in itertools.pairwise(linear):
        dormant = before.bias == 0
        assert dormant[::2].all()
        assert ((layer.weight == 0) == dormant).all()
        for weight, which in ((before.weight, dormant[:, None]), (layer.weight, dormant)):
            for moment in run.optimizer.state[weight].values():
                assert moment.ndim == 0 or (moment.masked_select(which) == 0).all()


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
def test_a_norm_before_the_activation_begins_anew_too(norm: type[nn.Module]) -> None:
    run = recycled(norm)
    linear, first = run.model.backbone[1:3]  # type: ignore[index, misc]
    dormant = linear.bias == 0
    assert dormant[::2].all()
    assert ((first.bias == 0) & (first.weight == 1))[dormant].all()
    if norm is nn.BatchNorm1d:
        assert ((first.running_mean == 0) & (first.running_var == 1)).tolist() == dormant.tolist()
    run.optimizer.state_dict()  # which knows parameters only


def test_it_works_around_nap() -> None:
    benchmark = tiny_benchmark()
    model = make_model("mlp", benchmark.input_shape, benchmark.num_classes, hidden=(12, 10))
    strategy = make_strategy("finetune+nap+redo", redo__threshold=0.5, redo__period=2)
    tiny_run(strategy, benchmark, model=model).fit()


def test_a_network_of_another_make_is_refused() -> None:
    benchmark = tiny_benchmark(images=True)
    model = make_model("slim-resnet18", benchmark.input_shape, benchmark.num_classes, width=2)
    with pytest.raises(IncompatibleError, match="linear layers in a row"):
        tiny_run(make_strategy("finetune+redo"), benchmark, model=model)
