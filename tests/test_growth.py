"""Cost grows as it should, as counts of operations and elements: no test here measures a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clbench import make_strategy
from clbench.config import EvaluationConfig, Execution, OptimConfig, RunConfig, Seeds, TrainConfig
from clbench.engine.engine import Engine
from clbench.strategy import Strategy, chain
from clbench.testing import tiny_benchmark, tiny_model
from clbench.types import Batch, Output


class Work(TorchDispatchMode):
    """Operations on tensors, and elements of their results."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.operations += 1
        for tensor in made if isinstance(made, tuple | list) else (made,):
            new = not func.is_view and not func._schema.name.endswith("_")  # what is written in place is not
            if isinstance(tensor, torch.Tensor) and new:
                self.elements += tensor.numel()
        return made


class Counts(Strategy):
    """Work of each lap from one `after_step` to the next, last in a chain."""

    def __init__(self, work: Work) -> None:
        self.work, self.laps = work, []

    def after_step(self, batch: Batch, out: Output) -> None:
        self.laps.append((self.work.operations, self.work.elements, self.run.experience))


def laps(experiences: int, memory: int, **evaluation: Any) -> list[tuple[int, int, int]]:
    """(operations, elements, experience) of every step but the first two of each experience."""
    benchmark = tiny_benchmark(experiences=experiences, shift="domain")
    config = RunConfig(
        benchmark="tiny",
        strategy="x",
        optim=OptimConfig(reset=False),
        train=TrainConfig(batch_size=8),
        evaluation=EvaluationConfig(**(evaluation or {"every": 0})),
        seeds=Seeds(order=0, init=0, data=0),
    )
    with Work() as work:
        counts = Counts(work)
        strategy = chain(make_strategy("er", memory=memory), counts)
        execution = Execution(device="cpu", checkpoint_seconds=None)
        Engine(benchmark, strategy, tiny_model(benchmark, norm=False), config, execution).fit()
    found = []
    for before, after in zip(counts.laps, counts.laps[1:], strict=False):
        if before[2] == after[2]:  # not across an experience's end, with its full evaluation
            found.append((after[0] - before[0], after[1] - before[1], after[2]))
    return found


def in_experience(found: list[tuple[int, int, int]], experience: int) -> tuple[int, int]:
    """Work of a step in the middle of an experience."""
    of = [lap for lap in found if lap[2] == experience]
    return of[len(of) // 2][:2]


def test_a_step_costs_the_same_however_many_experiences_lie_behind() -> None:
    found = laps(experiences=8, memory=16)
    assert in_experience(found, 7) == in_experience(found, 1)


def test_a_step_does_the_same_operations_however_large_the_memory_is() -> None:
    """Two integers for each row, of the draw's permutation and the insert's last writers; never an example."""
    small, large = (in_experience(laps(2, memory), 1) for memory in (32, 64))
    assert small[0] == large[0]
    assert large[1] - small[1] <= 2 * 32


@pytest.mark.parametrize("seen", [2, 4])
def test_an_exact_tick_is_linear_in_the_experiences_seen(seen: int) -> None:
    silent, found = laps(5, 16), laps(5, 16, subset=16)
    cost = [in_experience(found, e)[1] - in_experience(silent, e)[1] for e in range(5)]
    assert cost[seen] / cost[0] == pytest.approx(seen + 1, rel=0.15)


def test_a_tick_takes_few_operations_however_many_streams_there_are() -> None:
    silent, found = laps(6, 16), laps(6, 16, subset=8)
    operations = [in_experience(found, e)[0] - in_experience(silent, e)[0] for e in range(6)]
    assert operations[5] <= operations[1] + 2
