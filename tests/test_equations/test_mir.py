"""MIR: of a random draw, replay those whose loss rises most by θ − η ∇CE(B); L = CE(B) + CE(replayed)."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from clbench.strategies.mir import interference
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Classifier, make_strategy
from clbench.config import OptimConfig
from clbench.testing import tiny_benchmark, tiny_run, watch

RATE = 0.5


def test_interference_by_hand() -> None:
    """Two classes, no weights yet. One step on x = 1 of class 0 makes logits ±η at x = 1 and 0 at x = −1."""
    model = Classifier(nn.Identity(), 8, 2)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    run = tiny_run(
        make_strategy("mir"), tiny_benchmark(experiences=1), model=model, optim=OptimConfig(lr=RATE)
    )
    one = torch.zeros(1, 8)
    one[0, 0] = 1.0
    loss = F.cross_entropy(run.forward(one).logits, torch.tensor([0]))
    x, y = torch.cat([one, one, -one]), torch.tensor([1, 0, 1])
    rise = interference(run, loss, x, y, torch.full((3,), -1)).tolist()
    assert rise[0] == pytest.approx(math.log(1 + math.exp(2 * RATE)) - math.log(2), abs=1e-6)
    assert rise[1] == pytest.approx(math.log(1 + math.exp(-2 * RATE)) - math.log(2), abs=1e-6)
    assert rise[2] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_step(seed: int) -> None:
    """Against copies of the model, one of them a step ahead."""
    steps: list[dict[str, Any]] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point != "losses":
            return call()
        batch, _ = arguments
        step: dict[str, Any] = {"batch": batch, "model": copy.deepcopy(run.model), "passes": []}
        steps.append(step)
        step["losses"] = call()
        step["after"] = {name: b.clone() for name, b in run.model.named_buffers()}
        return step["losses"]

    strategy = make_strategy("mir", memory=40, draw=6, candidates=20)
    replay = strategy.parts[1]
    watch(replay, probe)
    run = tiny_run(strategy, tiny_benchmark(seed=seed), batch_size=16, epochs=1, optim=OptimConfig(lr=RATE))
    draw, forward = replay.memory.draw, run.forward

    def drawn(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        steps[-1]["old"] = draw(n, generator)
        return steps[-1]["old"]

    def forwarded(x: Tensor, task: Tensor | None = None) -> Any:
        if steps and "losses" not in steps[-1]:
            steps[-1]["passes"].append(x)
        return forward(x, task)

    replay.memory.draw, run.forward = drawn, forwarded
    run.fit()
    assert steps[0]["losses"] == {}
    chosen_of = []
    for step in steps[1:]:
        old, batch = step["old"], step["batch"]
        now, ahead, plain = (copy.deepcopy(step["model"]).train() for _ in range(3))
        optimizer = torch.optim.SGD(ahead.parameters(), lr=RATE)
        optimizer.zero_grad()
        F.cross_entropy(ahead(batch.x), batch.y).backward()
        optimizer.step()
        with torch.no_grad():
            rise = [F.cross_entropy(m(old["x"]), old["y"], reduction="none") for m in (ahead, now)]
        order = (rise[0] - rise[1]).sort(descending=True).indices[:6]
        (x,) = step["passes"]  # one forward pass that trains
        assert {r.numpy().tobytes() for r in x} == {r.numpy().tobytes() for r in old["x"][order]}
        expected = F.cross_entropy(plain(old["x"][order]), old["y"][order])
        torch.testing.assert_close(step["losses"]["replay"], expected, rtol=1e-6, atol=1e-6)
        # Only that pass moves running statistics.
        for name, value in plain.named_buffers():
            torch.testing.assert_close(step["after"][name], value, rtol=1e-6, atol=1e-6)
        chosen_of.append((rise[0] - rise[1])[order].mean() > (rise[0] - rise[1]).mean())
    assert all(len(step["old"]["y"]) == min(20, 16 * i) for i, step in enumerate(steps) if i)
    assert all(chosen_of)
