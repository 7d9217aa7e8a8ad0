"""O-LoRA: overlaps of input directions, and what is left without them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clbench.strategies.o_lora import overlap
from torch import Tensor

from clbench import Experience, Strategy
from tests.test_equations.test_lora import run_of


def sines(*shape: int, a: float) -> Tensor:
    return torch.sin(a + torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).view(shape)


OLD, NEW = torch.cat([sines(2, 4, a=0.1), sines(2, 4, a=1.3)]), sines(2, 4, a=2.9)


def test_overlap_of_the_reference() -> None:
    """The first number, and the gradient, are those of the authors' trainer."""
    new = NEW.clone().requires_grad_()
    loss = overlap(OLD, new, "absolute")
    assert loss.item() == pytest.approx(8.676886592662747, abs=1e-9)
    assert overlap(OLD, NEW, "squared").item() == pytest.approx(12.269286342195127, abs=1e-9)
    (gradient,) = torch.autograd.grad(loss, new)
    expected = [
        [0.877715100, -1.088130731, -2.053554186, -1.130949393],
        [2.713936155, 2.545913354, 0.037189556, -2.505726148],
    ]
    torch.testing.assert_close(gradient, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)


def test_of_no_old_rows_it_is_0() -> None:
    assert overlap(OLD[:0], NEW, "absolute").item() == 0


def test_losses_are_sums_over_layers() -> None:
    run = run_of("o-lora", rank=2, strength=0.5, norm=0.1)
    part: Any = run.strategy.parts[0]
    for b in part.branches:
        for p in (*b.downs, *b.ups):
            p.data.normal_(generator=torch.Generator().manual_seed(p.numel()))
    part.stage.current = 2
    unused: Any = None
    losses = part.losses(unused, unused)
    old_new = [(torch.cat([*b.downs[:2]]), b.downs[2]) for b in part.branches]
    torch.testing.assert_close(losses["orthogonality"], 0.5 * sum((o @ n.T).abs().sum() for o, n in old_new))
    norms = sum(b.downs[2].norm() + b.ups[2].norm() for b in part.branches)
    torch.testing.assert_close(losses["norm"], 0.1 * norms)


class Look(Strategy):
    def __init__(self) -> None:
        self.ends: list[list[Tensor]] = []

    def end_experience(self, exp: Experience) -> None:
        part: Any = self.run.strategy.parts[0]
        self.ends.append([p.detach().clone() for b in part.branches for p in (*b.downs, *b.ups)])


def test_only_the_present_pair_moves() -> None:
    look = Look()
    run_of("o-lora", look, rank=2).fit()
    for t in (1, 2):
        moved = [not torch.equal(a, b) for a, b in zip(look.ends[t - 1], look.ends[t], strict=True)]
        assert moved == [k == t for k in (0, 1, 2)] * (len(moved) // 3)


def test_its_first_experience_is_sequential_lora_bit_for_bit() -> None:
    """From the same draws: of pairs to come, none is read."""
    ends = {}
    for name in ("o-lora", "lora"):
        look = Look()
        run = run_of(name, look, rank=2)
        part: Any = run.strategy.parts[0]
        for n, branch in enumerate(part.branches):
            with torch.no_grad():
                branch.downs[0].uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(n))
        run.fit()
        each = 6 if name == "o-lora" else 2
        ends[name] = [look.ends[0][k] for k in range(len(look.ends[0])) if k % (each // 2) == 0]
    assert all(torch.equal(a, b) for a, b in zip(ends["o-lora"], ends["lora"], strict=True))


def test_without_strength_no_loss_is_added() -> None:
    run = run_of("o-lora", rank=2, strength=0.0)
    part: Any = run.strategy.parts[0]
    part.stage.current = 1
    unused: Any = None
    assert part.losses(unused, unused) == {}
