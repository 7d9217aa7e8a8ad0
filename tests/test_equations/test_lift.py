"""LIFT: which entries are principal, and that no others move."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clbench.strategies.lift import principal
from torch import Tensor

from clbench import Strategy
from tests.test_equations.test_lora import run_of, state


def sines(*shape: int, k: float) -> Tensor:
    return torch.sin(1 + k + 0.7 * torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).view(shape)


W = sines(4, 5, k=0.2) + 0.3 * sines(4, 5, k=1.7).flip(1) ** 3
ROW = [1, 0, 0, 1, 1]


def mask(*rows: list[int]) -> Tensor:
    return torch.tensor(rows).bool()


def test_masks_of_the_reference() -> None:
    """The second is what the authors' configurations choose; a full rank chooses by W's own magnitudes."""
    assert torch.equal(principal(W, 1, 9), mask([0, 0, 0, 0, 0], ROW, ROW, ROW))
    least = mask([0, 1, 1, 1, 0], *[[0, 1, 1, 0, 0]] * 3)
    assert torch.equal(principal(W, 1, 9, "smallest"), least)
    own = principal(W, 4, 9)
    assert torch.equal(own, mask([1, 0, 0, 0, 0], [1, 0, 0, 0, 1], ROW, ROW))
    assert torch.equal(own, W.abs() >= W.abs().flatten().kthvalue(12).values)


def test_of_enough_entries_all_are_trained() -> None:
    assert principal(W, 1, 20).all()
    assert principal(W, 1, 99).all()
    assert principal(W, 2, 13).sum() == 13


class Look(Strategy):
    """What a step moves, of each weight, beside what it may."""

    def __init__(self) -> None:
        self.moved: list[tuple[Tensor, Tensor]] = []

    def gradients(self) -> None:
        self.before = [w.detach().clone() for w in self.part.matrices]

    @property
    def part(self) -> Any:
        return self.run.strategy.parts[0]

    def after_update(self) -> None:
        for weight, before, may in zip(self.part.matrices, self.before, self.part.masks, strict=True):
            self.moved.append((weight.detach() != before, may))


@pytest.mark.parametrize(
    "optim",
    [{"momentum": 0.9}, {"name": "adamw", "weight_decay": 0.1}],
    ids=str,
)
def test_no_other_entry_moves_whatever_the_optimizer(optim: dict[str, Any]) -> None:
    look = Look()
    run = run_of("lift", look, rank=2, budget=2, period=3)
    run.config = run.config.model_copy(update={"optim": run.config.optim.model_copy(update=optim)})
    run.renew_optimizer()
    before = state(run)
    run.fit()
    assert not any((moved & ~may).any() for moved, may in look.moved)
    assert all(moved.any() for moved, _ in look.moved)
    assert all(may.sum() == 2 * sum(may.shape) for _, may in look.moved)
    after = run.model.state_dict()
    stay = [name for name in before if name.startswith("backbone.") and name.endswith("bias")]
    assert stay
    assert all(torch.equal(before[name], after[name]) for name in stay)


def test_masks_are_chosen_anew_after_a_period() -> None:
    look = Look()
    run_of("lift", look, rank=2, budget=2, period=3).fit()
    layers = len(look.part.matrices)
    first = [may for _, may in look.moved[::layers]]
    changes = [step for step in range(1, len(first)) if first[step] is not first[step - 1]]
    assert changes[:2] == [3, 4]  # an experience has four steps


def test_with_all_entries_it_is_fine_tuning_of_the_linear_layers_bit_for_bit() -> None:
    class OnlyLinear(Strategy):
        def wrap(self, model: Any) -> Any:
            layers = [m for m in model.backbone.modules() if isinstance(m, torch.nn.Linear)]
            model.backbone.requires_grad_(False)
            for layer in layers:
                layer.weight.requires_grad_(True)
            return model

    whole, plain = run_of("lift", budget=999), run_of("finetune", OnlyLinear(), loss="local")
    whole.fit(), plain.fit()
    pairs = zip(whole.model.parameters(), plain.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
