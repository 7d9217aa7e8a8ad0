"""InfLoRA: designed down maps, DualGPM's spaces, and that new updates do not reach the stored one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from clbench.strategies.inflora import Space, design, grown, rest
from torch import Tensor

from clbench import Experience, Strategy, make_strategy
from tests.test_equations.test_lora import run_of


def sines(*shape: int, a: float, f: float = 1.0) -> Tensor:
    return torch.sin(a + f * torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).view(shape)


def moment(tokens: Tensor) -> Tensor:
    rows = tokens.flatten(0, 1)
    return rows.T @ rows / len(rows)


X0, X1, X2 = (moment(sines(2, 3, 4, a=a, f=f)) for a, f in ((0.3, 1.0), (2.0, 1.7), (5.0, 0.6)))
THRESHOLDS = [0.95 + 0.05 * t / 3 for t in range(3)]


def near(found: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)


def projector(space: Space) -> Tensor:
    basis: Tensor = space["basis"]
    return basis @ basis.T


def test_the_first_design_of_the_reference() -> None:
    near(X0[0], [0.517817447, 0.362335226, -0.126276331, -0.498790012])
    near(torch.linalg.svdvals(X0)[:2], [1.304579241, 0.698832795])
    down = design(X0, 2, None)
    p = 3 * down.T @ down
    near(p.diagonal(), [0.409399861, 0.590600139, 0.590600139, 0.409399861])
    near(p[0, 1:], [0.235260536, -0.155176241, -0.402944697])
    torch.testing.assert_close(down @ down.T, torch.eye(2, dtype=torch.float64) / 3)


def test_spaces_and_designs_of_the_reference() -> None:
    first = grown(X0, None, THRESHOLDS[0])
    assert not first["retain"]
    near(projector(first).diagonal(), [0.382528696, 0.279104140, 0.002265979, 0.336101185])
    near(torch.linalg.svdvals(rest(X1, first))[:2], [1.102091759, 0.465488552])
    down = design(X1, 2, first)
    near((3 * down.T @ down).diagonal(), [0.613740352, 0.239760731, 0.942147174, 0.204351743])
    assert (down @ first["basis"]).abs().max() < 1e-14
    second = grown(X1, first, THRESHOLDS[1])
    assert second["retain"]
    assert second["basis"].shape[1] == 1
    near(projector(second).diagonal(), [0.003730952, 0.481135129, 0.055586847, 0.459547073])
    third = grown(X2, second, THRESHOLDS[2])
    assert third["retain"]
    assert third["basis"].shape[1] == 0
    assert not design(X2, 2, third).any()


@pytest.mark.parametrize("free", [1, 0])
def test_no_direction_is_made_up_where_fewer_than_the_rank_are_free(free: int) -> None:
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = torch.linalg.qr(rows[:6]).Q[:, :free]
    down = design(rows.T @ rows / 40, 3, {"basis": basis, "retain": True})
    torch.testing.assert_close(3 * down.T @ down, basis @ basis.T)


def test_what_lies_in_the_stored_space_is_not_changed_whatever_is_learned() -> None:
    class Wreck(Strategy):
        """Sets the up maps of the second experience to anything, and looks at keys and values of the stored space."""

        worst = math.nan

        def end_experience(self, exp: Experience) -> None:
            part: Any = self.run.strategy.parts[0]
            if exp.index != 1 or part.spaces[0]["retain"]:
                return
            for n, group in enumerate(part.groups):
                stored = part.before[n].float().T  # (c, d)
                layer = group[0]
                with torch.no_grad():
                    was = layer(stored)
                    for branch in layer.branches.values():
                        branch.ups[1].fill_(1e3)
                    self.worst = float((layer(stored) - was).abs().max())

        def begin_experience(self, exp: Experience) -> None:
            part: Any = self.run.strategy.parts[0]
            if exp.index == 1:
                part.before = [space["basis"].clone() for space in part.spaces]

    wreck = Wreck()
    run_of("inflora", wreck, rank=2, low=0.5, high=0.6).fit()
    assert wreck.worst < 0.05  # updates are of 10³, in float32


def test_up_maps_alone_are_trained_and_keys_and_values_share_the_down_map() -> None:
    run = run_of("inflora", rank=2)
    part: Any = run.strategy.parts[0]
    run.fit()
    for layer in part.layers:
        k, v = layer.branches["k"], layer.branches["v"]
        for t in range(3):
            assert torch.equal(k.downs[t], v.downs[t])
            assert k.ups[t].any()
            assert not k.downs[t].requires_grad
    assert not run.model.backbone.inner.training  # type: ignore[union-attr]


def test_shares_that_fall_are_refused() -> None:
    with pytest.raises(ValueError, match="a share rises from low to high"):
        make_strategy("inflora", low=0.9, high=0.5)
