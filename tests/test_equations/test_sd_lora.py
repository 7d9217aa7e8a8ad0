"""SD-LoRA: normalised old directions, magnitudes for all layers, and what is trained."""

from __future__ import annotations

from typing import Any

import torch
from clbench.strategies.sd_lora import Directions, Magnitudes
from torch import Tensor, nn

from clbench.parts import Extended, Stage
from tests.test_equations.test_lora import run_of


def sines(*shape: int, a: float) -> Tensor:
    return torch.sin(a + torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).view(shape)


def layer(old: float = 1.0, present: float = 1.0) -> tuple[Extended, Magnitudes]:
    """The published fixture; old and present pairs may be scaled."""
    stage, magnitudes = Stage(), Magnitudes(2, 0.8, torch.device("cpu"))
    stage.current = 1
    magnitudes.alphas[0].data, magnitudes.alphas[1].data = (
        torch.tensor(a, dtype=torch.float64) for a in (1.5, 0.7)
    )
    branches = {}
    for target, (a0, b0, a1, b1) in {"q": (0.2, 0.6, 2.2, 2.6), "v": (1.1, 1.6, 3.1, 3.6)}.items():
        branch = Directions([old * sines(2, 4, a=a0), sines(2, 4, a=a1)], 4, stage, magnitudes)
        branch.ups[0].data, branch.ups[1].data = sines(4, 2, a=b0), present * sines(4, 2, a=b1)
        branches[target] = branch
    base = nn.Linear(4, 12, dtype=torch.float64)
    base.weight.data, base.bias.data = sines(12, 4, a=0.1), sines(12, a=0.5)
    return Extended(base, ("q", "k", "v"), branches), magnitudes  # type: ignore[arg-type]


X = sines(1, 2, 4, a=0.3)


def test_outputs_of_the_reference() -> None:
    q, _, v = layer()[0](X)[0].chunk(3, -1)
    expected = [
        [1.295805831, -0.257649231, 1.484475908, 0.031639078],
        [-0.090078449, 3.752862073, -2.140398733, 0.128354434],
    ]
    torch.testing.assert_close(q, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)
    expected = [
        [2.173387547, 0.015226559, -1.995785289, 0.265010830],
        [-0.221138805, 1.229780019, -2.005331560, -0.731691928],
    ]
    torch.testing.assert_close(v, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)


def test_the_length_of_an_old_pair_does_not_matter_and_that_of_the_present_one_does() -> None:
    plain = layer()[0](X)
    torch.testing.assert_close(layer(old=7.0)[0](X), plain)
    assert not torch.allclose(layer(present=7.0)[0](X), plain)


def test_magnitudes_have_gradients_and_old_pairs_none() -> None:
    made, magnitudes = layer()
    made(X).square().sum().backward()
    assert all(alpha.grad is not None for alpha in magnitudes.alphas)
    branch: Any = made.branches["q"]
    assert branch.downs[0].grad is None
    assert branch.ups[0].grad is None
    # ∂L/∂α_0 = Σ over targets of ⟨∂L/∂y, B A x / (‖B‖ ‖A‖)⟩
    y = made(X).detach()
    expected = torch.zeros((), dtype=torch.float64)
    for target, part in zip(("q", "v"), (y[..., :4], y[..., 8:]), strict=True):
        old: Any = made.branches[target]
        up, down = old.ups[0], old.downs[0]
        expected = expected + (2 * part * (X @ (up @ down / (up.norm() * down.norm())).T)).sum()
    torch.testing.assert_close(magnitudes.alphas[0].grad, expected.detach())


def test_magnitudes_begin_anew_or_go_on() -> None:
    found = {}
    for how in ("fresh", "kept"):
        run = run_of("sd-lora", rank=2, magnitudes=how)
        part: Any = run.strategy.parts[0]
        part.magnitudes.alphas[0].data.fill_(3.0)
        part.begin_experience(run.benchmark.train[1])
        found[how] = part.magnitudes.alphas[0].item()
    assert found["kept"] == 3.0
    assert abs(found["fresh"] - 0.8) < 1e-6
