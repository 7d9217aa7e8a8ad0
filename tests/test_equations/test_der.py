"""DER: L = CE(B) + α/(n C) Σ ‖z − z'‖², z' the logits an example had in the step in which it came."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from clbench import Batch, Output, make_strategy
from clbench.config import OptimConfig
from clbench.testing import tiny_benchmark, tiny_run, watch
from clbench.testing.tools import learned, same


def test_by_hand() -> None:
    """α = ½; the stored logits are one off in every column of one row, right in the other: ½ · ½ · 1."""
    run = tiny_run(make_strategy("der", memory=2, alpha=0.5), tiny_benchmark())
    dark = run.strategy.parts[1]
    x = torch.randn((2, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        run.model.eval()
        logits = run.forward(x).logits
    stored = logits + torch.tensor([[1.0], [0.0]])
    zeros = torch.zeros(2, dtype=torch.int64)
    dark.memory.add(run.rng("memory"), x=x, y=zeros, task=zeros - 1, logits=stored)
    batch = Batch(x, zeros, zeros - 1, x, zeros, zeros, 2)
    losses = dark.losses(batch, Output(logits, logits))
    assert set(losses) == {"dark"}
    assert losses["dark"].item() == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize(("seed", "alpha"), [(0, 0.3), (1, 1.0)])
def test_every_step(seed: int, alpha: float) -> None:
    steps: list[dict[str, Any]] = []
    came: dict[bytes, Tensor] = {}

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point == "losses":
            steps.append({"draws": [], "outputs": []})
            steps[-1]["losses"] = call()
            return steps[-1]["losses"]
        if point == "after_step":
            batch, out = arguments
            came.update({r.numpy().tobytes(): z for r, z in zip(batch.raw, out.logits.detach(), strict=True)})
        return call()

    strategy = make_strategy("der", memory=30, draw=10, alpha=alpha)
    dark = strategy.parts[1]
    watch(dark, probe)
    run = tiny_run(strategy, tiny_benchmark(seed=seed), batch_size=16, epochs=1, optim=OptimConfig(lr=0.05))
    draw, forward = dark.memory.draw, run.forward

    def drawn(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        steps[-1]["draws"].append(draw(n, generator))
        return steps[-1]["draws"][-1]

    def forwarded(x: Tensor, task: Tensor | None = None) -> Any:
        out = forward(x, task)
        if steps and "losses" not in steps[-1]:
            steps[-1]["outputs"].append(out.logits.detach().double())
        return out

    dark.memory.draw, run.forward = drawn, forwarded
    run.fit()
    assert steps[0]["losses"] == {}
    for step in steps[1:]:
        ((old,), (now,)) = step["draws"], step["outputs"]
        then = torch.stack([came[row.numpy().tobytes()] for row in old["x"]]).double()
        expected = alpha * sum((a - b) ** 2 for a, b in zip(now.flatten(), then.flatten(), strict=True)) / 60
        torch.testing.assert_close(step["losses"]["dark"].detach().double(), expected, rtol=1e-6, atol=1e-6)
    assert len(steps) == 12


def test_it_is_derpp_without_labels() -> None:
    runs = [
        tiny_run(make_strategy("der", memory=30, alpha=0.3), tiny_benchmark()),
        tiny_run(make_strategy("derpp", memory=30, alpha=0.3, beta=0.0), tiny_benchmark()),
    ]
    for run in runs:
        run.fit()
    same(learned(runs[0]), learned(runs[1]), "they differ")
