"""What may watch a run. Imports no torch, so that the command line need not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

    from clbench.config import Execution, RunConfig
    from clbench.evaluation import ContinualEvaluator
    from clbench.machine.clock import Clock
    from clbench.strategy import Strategy
    from clbench.types import Benchmark, Experience, Stream


class Watched(Protocol):
    """A run as its observers see it: where it stands, and what has been measured."""

    benchmark: Benchmark
    strategy: Strategy
    config: RunConfig
    execution: Execution
    device: torch.device
    model: nn.Module
    train: Stream
    evaluator: ContinualEvaluator
    clock: Clock
    ends: tuple[int, ...]

    @property
    def step(self) -> int:
        """Iterations done so far."""

    @property
    def experience(self) -> int:
        """Index of the present experience."""

    @property
    def total_steps(self) -> int:
        """Iterations of the whole stream."""

    def steps_of(self, exp: Experience) -> int:
        """Iterations of an experience."""

    @property
    def finished(self) -> bool:
        """Whether its last experience has been learned."""


class ObserverWarning(UserWarning):
    """An observer failed and is left out for the rest of the run."""


class Observer:
    """Something that watches a run: progress displays, loggers. It may not change the run, nor end it: one that raises
    anything but a `ClbenchError` is left out from there on, with a warning."""

    def begin(self, run: Watched) -> None:
        """Before the first step, or the first one after resuming."""

    def window(self, run: Watched, rows: Sequence[Mapping[str, Any]]) -> None:
        """Every `WINDOW` steps: one row per step with step, experience, lr and the losses."""

    def end_experience(self, run: Watched) -> None:
        """After the full evaluation at an experience's end."""

    def end(self, run: Watched) -> None:
        """After the last experience, or when the run stops before it: close what was opened."""
