"""DER++: L = CE(B) + α/(n C) Σ ‖z − z'‖² + β/n Σ CE(z'', y''), with two independent draws from one reservoir.

z' are the logits an example had in the step in which it came.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from clbench import make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.testing import tiny_benchmark, tiny_run, watch

Row = tuple[bytes, int]


@dataclass
class Trace:
    """What happened in a run, step by step."""

    losses: list[dict[str, Tensor]] = field(default_factory=list)
    draws: list[list[dict[str, Tensor]]] = field(default_factory=list)  # the draws of a step
    outputs: list[list[Tensor]] = field(
        default_factory=list
    )  # logits of the forward passes of a step, replay only
    logits: dict[bytes, Tensor] = field(default_factory=dict)  # of each example when it came


def traced(*, memory: int = 30, seed: int = 0, **params: Any) -> tuple[Engine, Trace]:
    trace = Trace()

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point == "losses":
            trace.draws.append([])
            trace.outputs.append([])
        result = call()
        if point == "losses":
            trace.losses.append({name: loss.detach().double() for name, loss in result.items()})
        if point == "after_step":
            batch, out = arguments
            trace.logits |= {
                row.numpy().tobytes(): z for row, z in zip(batch.raw, out.logits.detach(), strict=True)
            }
        return result

    strategy = make_strategy("derpp", memory=memory, **params)
    dark = strategy.parts[1]
    watch(dark, probe)
    run = tiny_run(strategy, tiny_benchmark(seed=seed), batch_size=16, epochs=1, optim=OptimConfig(lr=0.05))
    draw, forward = dark.memory.draw, run.forward

    def drawn(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = draw(n, generator)
        trace.draws[-1].append(rows)
        return rows

    def forwarded(x: Tensor, task: Tensor | None = None) -> Any:
        out = forward(x, task)
        if trace.draws and len(trace.outputs[-1]) < len(trace.draws[-1]):
            trace.outputs[-1].append(out.logits.detach().double())
        return out

    dark.memory.draw, run.forward = drawn, forwarded
    run.fit()
    return run, trace


@pytest.mark.parametrize(("seed", "alpha", "beta"), [(0, 0.3, 0.7), (1, 1.0, 0.1)])
def test_dark_loss(seed: int, alpha: float, beta: float) -> None:
    """α times the mean over n examples and all C columns of the squared difference."""
    _, trace = traced(seed=seed, alpha=alpha, beta=beta)
    for losses, draws, outputs in zip(trace.losses[1:], trace.draws[1:], trace.outputs[1:], strict=True):
        z, stored = outputs[0], draws[0]["logits"].double()
        torch.testing.assert_close(
            losses["dark"], alpha * ((z - stored) ** 2).sum() / z.numel(), rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize(("seed", "alpha", "beta"), [(0, 0.3, 0.7), (1, 1.0, 0.1)])
def test_replay_loss(seed: int, alpha: float, beta: float) -> None:
    """β times the mean cross-entropy of the second draw."""
    _, trace = traced(seed=seed, alpha=alpha, beta=beta)
    for losses, draws, outputs in zip(trace.losses[1:], trace.draws[1:], trace.outputs[1:], strict=True):
        z, y = outputs[1], draws[1]["y"]
        cross_entropy = z.exp().sum(1).log() - z[torch.arange(len(z)), y]
        torch.testing.assert_close(losses["replay"], beta * cross_entropy.mean(), rtol=1e-5, atol=1e-7)


def test_first_step_has_nothing_to_replay() -> None:
    assert traced()[1].losses[0] == {}


def test_the_two_draws_are_independent() -> None:
    """Of 30 examples, two draws of 16 share 8.5 on average; one draw used twice would share 16."""
    _, trace = traced()
    shared = []
    for first, second in trace.draws[3:]:
        rows = [{row.numpy().tobytes() for row in draw["x"]} for draw in (first, second)]
        shared.append(len(rows[0] & rows[1]))
    assert 7 < sum(shared) / len(shared) < 10


def test_stored_logits_are_those_of_the_step_in_which_an_example_came() -> None:
    run, trace = traced()
    memory = run.strategy.parts[1].memory
    for x, z in zip(memory["x"], memory["logits"], strict=True):
        assert torch.equal(z, trace.logits[x.numpy().tobytes()])


@pytest.mark.parametrize(("alpha", "beta", "left"), [(0.0, 0.5, {"replay"}), (0.5, 0.0, {"dark"})])
def test_a_zero_coefficient_draws_nothing(alpha: float, beta: float, left: set[str]) -> None:
    _, trace = traced(alpha=alpha, beta=beta)
    assert [set(losses) for losses in trace.losses[1:]] == [left] * 11
    assert [len(draws) for draws in trace.draws[1:]] == [1] * 11
