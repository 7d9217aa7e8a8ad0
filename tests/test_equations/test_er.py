"""Experience replay: L = 1/(B + n) Σ CE over B stream and n replayed examples, one forward, one reservoir."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from clbench import Batch, Output, make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.testing import tiny_benchmark, tiny_run, watch

Step = tuple[Batch, Output, Tensor]


def recorded(benchmark_seed: int = 0, **params: Any) -> tuple[Engine, list[Step]]:
    """A run, and the batch, output and loss of every step."""
    steps: list[Step] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        result = call()
        if point == "losses":
            steps.append((*arguments, result["fit"].detach()))
        return result

    strategy = watch(make_strategy("er", **params), probe)
    run = tiny_run(
        strategy, tiny_benchmark(seed=benchmark_seed), batch_size=16, epochs=1, optim=OptimConfig(lr=0.05)
    )
    run.fit()
    return run, steps


@pytest.mark.parametrize("seed", [0, 1])
def test_loss_is_the_mean_over_all_rows(seed: int) -> None:
    _, steps = recorded(seed)
    for batch, out, loss in steps:
        z = out.logits.detach().double()
        cross_entropy = z.exp().sum(1).log() - z[torch.arange(len(z)), batch.y]
        torch.testing.assert_close(loss.double(), cross_entropy.sum() / len(batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("draw", "drawn"), [(None, 16), (5, 5), (40, 40)])
def test_rows_that_join(draw: int | None, drawn: int) -> None:
    """n = min(draw, held): as many as the stream's batch if draw is None, and none at the first step."""
    _, steps = recorded(memory=200, draw=draw)
    held = [16 * i for i in range(12)]
    assert [int(batch.replayed.sum()) for batch, _, _ in steps] == [min(drawn, h) for h in held]


def test_replayed_rows_were_seen_in_earlier_steps() -> None:
    _, steps = recorded(memory=200)
    seen: dict[bytes, int] = {}
    for batch, _, _ in steps:
        replayed = [
            (row.numpy().tobytes(), int(y)) for row, y in zip(batch.raw[16:], batch.y[16:], strict=True)
        ]
        assert all(seen[row] == y for row, y in replayed)
        seen |= {row.numpy().tobytes(): int(y) for row, y in zip(batch.raw[:16], batch.y[:16], strict=True)}


def test_no_example_is_drawn_twice_for_a_step() -> None:
    _, steps = recorded(memory=24)
    for batch, _, _ in steps:
        rows = [row.numpy().tobytes() for row in batch.raw[16:]]
        assert len(set(rows)) == len(rows)


def test_memory_is_full_and_of_all_experiences() -> None:
    run, _ = recorded(memory=60)
    (memory,) = (part.memory for part in run.strategy.parts if hasattr(part, "memory"))
    assert len(memory) == 60
    assert set(memory["y"].tolist()) == set(range(6))


def test_memory_is_filled_once_a_pass() -> None:
    run, _ = recorded(memory=60)
    (memory,) = (part.memory for part in run.strategy.parts if hasattr(part, "memory"))
    assert memory.seen == 3 * 64
