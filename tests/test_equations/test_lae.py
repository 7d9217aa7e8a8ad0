"""LAE: the offline copy's average, the larger of two probabilities, and when what is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clbench.strategies.lae import follow, surer
from torch import Tensor

from clbench import Experience, Strategy
from clbench.parts import extend
from tests.test_equations.test_lora import run_of


def sines(*shape: int, a: float, f: float = 1.0) -> Tensor:
    return torch.sin(a + f * torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).view(shape)


def test_the_larger_probability_of_the_reference() -> None:
    found = surer(3 * sines(2, 4, a=0.4, f=1.3), 3 * sines(2, 4, a=2.4, f=0.9))
    expected = [
        [0.909123284, 0.802947751, 0.062593112, 0.007453227],
        [0.012944774, 0.241997425, 0.717519025, 0.218731807],
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)


def test_three_averages_of_the_reference() -> None:
    slow = sines(3, a=1.0)
    for _ in range(3):
        follow([slow], [sines(3, a=0.2)], 0.9999)
    expected = torch.tensor([0.841278164, 0.909304249, 0.141320201], dtype=torch.float64)
    torch.testing.assert_close(slow, expected, rtol=0, atol=1e-8)


class Look(Strategy):
    """What each step moves."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, bool, bool]] = []

    def weights(self) -> tuple[Tensor, Tensor]:
        part: Any = self.run.strategy.parts[0]
        online, offline = (
            torch.cat([p.detach().flatten() for p in ps.values()]) for ps in (part.online, part.offline)
        )
        return online, offline

    def begin_experience(self, exp: Experience) -> None:
        self.before = self.weights()

    def after_step(self, batch: Any, out: Any) -> None:
        now = self.weights()
        moved = [not torch.equal(a, b) for a, b in zip(now, self.before, strict=True)]
        self.rows.append((self.run.experience, self.run.epoch, *moved))
        self.before = now


@pytest.mark.parametrize("kind", ["adapter", "lora"])
def test_first_the_head_learns_alone_and_the_copy_follows_from_the_second_experience_on(kind: str) -> None:
    look = Look()
    run_of("lae", look, blocks=(0, 1), kind=kind, freeze=0.5, momentum=0.9).fit()
    for experience, epoch, online, offline in look.rows:
        assert online == (experience == 0 or epoch == 1)
        # The copy is equal to the weights until these move in the second experience.
        assert offline == (experience == 2 or (experience == 1 and epoch == 1))


def test_published_counts_of_parameters() -> None:
    """Of low-rank branches of a block that is 768 wide, with both scales."""
    from clbench.parts import Dropout, LowRank, Stage
    from tests.test_injection import PART, large

    vit, off = large(), Dropout(0.0, None)

    def branch(inputs: int, outputs: int) -> LowRank:
        return LowRank([torch.zeros(5, inputs)], outputs, torch.nn.Parameter(torch.ones(())), off, Stage())

    extend(vit, PART, ("k", "v"), branch, blocks=(0,))
    assert sum(p.numel() for p in vit.parameters() if p.device.type != "meta") == 15_362
