"""MoRA: which experts a token activates, what they give, and what new ones change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clbench.strategies.mora import Experts, activation
from torch import Tensor
from torch.nn import functional as F

from clbench import Experience, Strategy
from clbench.errors import IncompatibleError
from clbench.parts import Dropout, Stage
from tests.test_equations.test_lora import run_of

DOWN = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
UP = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]], dtype=torch.float64).T
X = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
OFF = Dropout(0.0, None)


def experts(temperature: float, top: tuple[int, int] | None, downs: int = 1) -> Experts:
    stage = Stage()
    stage.current = downs - 1
    made = Experts(list(DOWN.chunk(downs)), 2, 1.0, OFF, stage, temperature, top)
    for up, given in zip(made.ups, UP.chunk(downs, dim=1), strict=True):
        up.data = given.clone()
    return made


@pytest.mark.parametrize(
    ("temperature", "weights", "given"),
    [
        (1.0, [0.4864, 0, 0.5136, 0], [2.5136, 1.5407]),
        (0.1, [0.3676, 0, 0.6324, 0], [2.6324, 1.8972]),
    ],
)
def test_activation_and_output_of_the_reference(
    temperature: float, weights: list[float], given: list[float]
) -> None:
    cosines = F.normalize(X) @ F.normalize(DOWN).T
    torch.testing.assert_close(
        cosines, torch.tensor([[0.8944, 0.4472, 0.9487, -0.8944]], dtype=torch.float64), rtol=0, atol=5e-5
    )
    found = activation(cosines, temperature, 2)
    torch.testing.assert_close(found, torch.tensor([weights], dtype=torch.float64), rtol=0, atol=6e-5)
    expected = torch.tensor([given], dtype=torch.float64)
    torch.testing.assert_close(experts(temperature, (2, 2))(X), expected, rtol=0, atol=2e-4)


def test_the_kept_weights_are_those_of_the_whole_softmax_made_to_add_up_to_1() -> None:
    scores = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = (scores / 0.3).softmax(-1)
    least = whole.sort(dim=-1, descending=True).values[..., 2:3]
    kept = whole.where(whole >= least, 0)
    torch.testing.assert_close(activation(scores, 0.3, 3), kept / kept.sum(-1, keepdim=True))
    torch.testing.assert_close(activation(scores, 0.3, 99), whole)


def test_all_weights_1_are_a_low_rank_branch() -> None:
    assert torch.equal(experts(1.0, None)(X), X @ DOWN.T @ UP.T)
    torch.testing.assert_close(experts(1.0, None).delta(), UP @ DOWN)


def test_old_experts_stay_and_get_no_gradient() -> None:
    layer = experts(0.5, (3, 3), downs=2)
    layer(X).square().sum().backward()
    assert [p.grad is not None for p in (*layer.downs, *layer.ups)] == [False, True] * 2


def test_at_test_another_number_may_be_active() -> None:
    layer = experts(0.1, (2, 1))
    assert not torch.equal(layer(X), layer.eval()(X))
    torch.testing.assert_close(layer.eval()(X), torch.tensor([[3.0, 3.0]], dtype=torch.float64))  # A_3 x = 3


def test_experts_are_not_merged() -> None:
    with pytest.raises(IncompatibleError, match="depend on the token"):
        experts(1.0, (2, 2)).delta()


class Look(Strategy):
    """Whether experts move, and whether what the network says does when an experience begins."""

    def __init__(self) -> None:
        self.ends: list[list[Tensor]] = []
        self.jumps: list[bool] = []

    def features(self) -> Tensor:
        x = self.run.train[0].data.x()[:1]
        with self.run.evaluating(), torch.no_grad():
            return self.run.forward(self.run.normalise(x)).features

    def begin_experience(self, exp: Experience) -> None:
        if exp.index:
            self.jumps.append(not torch.allclose(self.features(), self.before, atol=1e-5))

    def end_experience(self, exp: Experience) -> None:
        part: Any = self.run.strategy.parts[0]
        self.before = self.features()
        self.ends.append([p.detach().clone() for b in part.branches for p in (*b.downs, *b.ups)])


def test_only_the_present_experts_move_and_new_ones_change_what_old_ones_give() -> None:
    look = Look()
    run_of("mora", look, rank=2, top=2, temperature=1.0).fit()
    for t in (1, 2):
        moved = [not torch.equal(a, b) for a, b in zip(look.ends[t - 1], look.ends[t], strict=True)]
        assert moved == [k == t for k in (0, 1, 2)] * (len(moved) // 3)
    assert look.jumps == [True, True]


def test_with_all_weights_1_it_is_o_lora_without_its_penalty_bit_for_bit() -> None:
    targets = ("q", "k", "v", "proj", "fc1", "fc2")
    mixed = run_of("mora", rank=2, top=0)
    plain = run_of("o-lora", rank=2, alpha=2.0, strength=0.0, targets=targets)
    mixed.fit(), plain.fit()
    pairs = zip(mixed.model.parameters(), plain.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_with_all_weights_1_nothing_jumps() -> None:
    look = Look()
    run_of("mora", look, rank=2, top=0).fit()
    assert look.jumps == [False, False]
