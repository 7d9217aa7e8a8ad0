"""ReDo: units with E|h_i| ≤ τ · mean_k E|h_k| get fresh incoming and zero outgoing weights."""

from __future__ import annotations

import pytest
import torch

from clbench import make_model, make_strategy
from clbench.config import OptimConfig
from clbench.engine import Run
from clbench.errors import IncompatibleError
from clbench.testing import tiny_benchmark, tiny_run


def looked(threshold: float, scales: list[float]) -> tuple[Run, dict[str, torch.Tensor]]:
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


def test_a_network_of_another_make_is_refused() -> None:
    benchmark = tiny_benchmark(images=True)
    model = make_model("slim-resnet18", benchmark.input_shape, benchmark.num_classes, width=2)
    with pytest.raises(IncompatibleError, match="linear layers in a row"):
        tiny_run(make_strategy("finetune+redo"), benchmark, model=model)
