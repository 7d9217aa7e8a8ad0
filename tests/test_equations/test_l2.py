"""L2: ε Σ_j (θ_j − θ*_j)², from the start or from the first boundary on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clbench.strategies.l2 import HoldWeights
from torch import Tensor

from clbench import Experience, Strategy, chain, make_model, make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.errors import IncompatibleError
from clbench.testing import tiny_benchmark, tiny_run


def part_of(run: Engine) -> HoldWeights:
    return next(part for part in run.strategy.parts if isinstance(part, HoldWeights))


def penalty(run: Engine) -> Tensor:
    unused: Any = None
    return part_of(run).losses(unused, unused)["l2"]


def test_one_weight_by_hand() -> None:
    """θ − θ* = ½, ε = 0.05: 0.0125, gradient 0.05."""
    run = tiny_run(make_strategy("l2", strength=0.05), tiny_benchmark())
    theta = run.parameters()["backbone.1.bias"]
    with torch.no_grad():
        theta[3] += 0.5
    value = penalty(run)
    (gradient,) = torch.autograd.grad(value, theta)
    assert value.item() == pytest.approx(0.0125)
    assert gradient[3].item() == pytest.approx(0.05)
    assert gradient.count_nonzero() == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_is_ewc_with_importances_of_one(seed: int) -> None:
    run = tiny_run(make_strategy("l2", strength=0.3), tiny_benchmark(), seed=seed)
    run.fit()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in run.parameters().values():
            p += torch.randn(p.shape, generator=generator)
    expected = sum(
        ((p.detach() - part_of(run).anchor[name]).double() ** 2).sum() for name, p in run.parameters().items()
    )
    torch.testing.assert_close(penalty(run).double(), 0.3 * expected, rtol=1e-5, atol=0)


def test_at_the_anchor_there_is_no_penalty_and_no_gradient() -> None:
    run = tiny_run(make_strategy("l2"), tiny_benchmark())
    value = penalty(run)
    assert value == 0
    assert all((g == 0).all() for g in torch.autograd.grad(value, list(run.parameters().values())))


def test_without_data_the_weights_stay_where_they_started() -> None:
    """L2 from the start, with weight 0 on the data: nothing moves, also in the first experience."""
    run = tiny_run(chain(HoldWeights(0.5, "all", True)), tiny_benchmark(experiences=1))
    before = {name: p.detach().clone() for name, p in run.parameters().items()}
    run.fit()
    assert run.updates
    assert all(torch.equal(p, before[name]) for name, p in run.parameters().items())


def test_from_the_start_the_first_experience_is_held_to_the_initial_weights() -> None:
    """ε = 25 under SGD with rate 0.02 puts every held weight back onto its anchor at each step."""
    moved = {}
    for strength in (0.0, 25.0):
        run = tiny_run(
            make_strategy("l2", strength=strength, parameters="encoder"),
            tiny_benchmark(experiences=1),
            optim=OptimConfig(lr=0.02),
            epochs=20,
        )
        before = {n: p.detach().clone() for n, p in run.parameters().items() if n.startswith("backbone")}
        run.fit()
        moved[strength] = sum((run.parameters()[n] - w).norm().item() for n, w in before.items())
    assert moved[25.0] < moved[0.0] / 5


def test_not_from_the_start_nothing_is_held_before_the_first_boundary() -> None:
    run = tiny_run(make_strategy("l2", from_start=False), tiny_benchmark())
    unused: Any = None
    assert part_of(run).losses(unused, unused) == {}


def test_anchors_are_the_weights_at_each_end() -> None:
    seen: list[bool] = []

    class Record(Strategy):
        def end_experience(self, exp: Experience) -> None:
            anchor = part_of(self.run).anchor
            seen.append(all(torch.equal(anchor[n], p) for n, p in self.run.parameters().items()))

    tiny_run(chain(make_strategy("l2"), Record()), tiny_benchmark()).fit()
    assert seen == [True] * 3


def test_rows_of_classes_that_were_not_learned_are_free() -> None:
    run = tiny_run(make_strategy("l2", strength=1.0), tiny_benchmark())
    part_of(run).end_experience(run.train[0])  # classes 0 and 1 of 6
    bias = run.parameters()["head.bias"]
    with torch.no_grad():
        bias += 1.0
    (gradient,) = torch.autograd.grad(penalty(run), bias)
    assert gradient.tolist() == [2.0, 2.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("group", "held"), [("all", True), ("encoder", False), ("head", True)])
def test_groups(group: str, held: bool) -> None:
    run = tiny_run(make_strategy("l2", parameters=group), tiny_benchmark())
    assert any(name.startswith("head.") for name in part_of(run).anchor) == held


def test_group_of_a_transformer() -> None:
    """qkv of ViT-tiny 32/4, weights and biases: 12 · (3 · 192² + 3 · 192) = 1,334,016."""
    model = make_model("vit_tiny_patch16_224", (3, 32, 32), 100, patch_size=4)
    assert sum(p.numel() for p in model.parameters()) == 5_380_132
    from clbench.parts import members_of

    found = members_of("qkv", dict(model.named_parameters()))
    assert sum(p.numel() for p in found.values()) == 1_334_016
    assert len(found) == 24


def test_a_group_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="no trainable parameters of the group 'qkv'"):
        tiny_run(make_strategy("l2", parameters="qkv"), tiny_benchmark())
