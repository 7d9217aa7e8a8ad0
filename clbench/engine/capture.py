"""Forward, losses and backward of a batch as one launch: a CUDA graph for each shape of batch that keeps coming.

At ten examples a step, a GPU waits for Python, which launches many small kernels one by one. A graph launches them
all at once, with the same results. It can be recorded where every part says that its share of a step is the same
operations each time (`Strategy.capturable`); its first gradient is compared with the eager one. What cannot be
recorded runs eagerly, and the record says why.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from clbench.machine.graphs import CudaGraphs, sync_debug
from clbench.memory import Memory
from clbench.models.base import head_of
from clbench.strategy import Run, overrides
from clbench.types import Batch, Output

WARM_UP = 3
"""Steps of a shape before it is recorded: in the first ones, libraries choose their algorithms."""
SHAPES = 4
"""Graphs that are kept in an experience; each holds the maps of its batch."""
WITHIN = ("wrap", "losses", "gradient", "step", "gradients", "after_update")
"""The points whose work a graph holds, or which handle the gradients that lie in its memory."""
TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2}
"""‖g − g'‖ / ‖g‖ between a recorded and an eager gradient, whose kernels may add up in another order."""
APART = "what was recorded is off"
"""How the reason begins where it computes something else."""
Eager = Callable[[Batch], tuple[Output, dict[str, Tensor]]]
"""Batch → output and named losses, leaving gradients in `.grad`."""


def obstacle(run: Run) -> str:
    """Return what stands against recording a run's gradients; empty if nothing is known to."""
    if run.execution.capture == "never":
        return "it was not wanted (execution.capture)"
    if run.device.type != "cuda":
        return f"a {run.device.type} has no graphs"
    if not run.ranks.alone:
        return "several processes share a step"
    if run.config.train.micro_batch is not None:
        return "a batch is passed in portions (train.micro_batch)"
    if run.precision.name not in TOLERANCE:
        return f"{run.precision.name} decides at every step whether a gradient overflowed"
    return undeclared(run)


def undeclared(run: Run) -> str:
    """Return which part does not say that it can be recorded; empty if all do."""
    if not (head := head_of(run.model)).recordable:
        return f"its head, a {type(head).__name__}, cannot be recorded"
    for part in run.strategy.parts:
        if not vars(type(part)).get("capturable", False) and any(overrides(part, point) for point in WITHIN):
            return f"{type(part).__name__} does not say that it can be recorded (capturable)"
    return ""


class Recorder(Protocol):
    """How work is recorded and carried out again."""

    def aside(self) -> contextlib.AbstractContextManager[Any]:
        """Wrap eager work whose nodes may still live while something is recorded."""

    def record(self, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
        """Return what carries the work out again, into the same tensors, drawing on from these generators.

        Raises:
            RuntimeError: the work cannot be recorded.
        """


class Gradients:
    """Forward, losses and backward of a run's batches, recorded where that can be.

    Args:
        run: whose gradients.
        eager: computes them one launch at a time.
        recorder: CUDA graphs if None.

    Attributes:
        reason: why nothing is recorded, or no more; empty otherwise.
        recorded: how many recordings were made.
    """

    def __init__(self, run: Run, eager: Eager, recorder: Recorder | None = None) -> None:
        self.run, self.eager = run, eager
        self.reason = undeclared(run) if recorder else obstacle(run)
        self.recorded = 0
        self._recorder = None if self.reason else recorder or CudaGraphs(run.device)
        self._counts: Counter[Any] = Counter()
        self._recordings: dict[Any, _Recording] = {}

    def __call__(self, batch: Batch) -> tuple[Output, dict[str, Tensor]]:
        """The output of a batch and its losses, gradients in `.grad`."""
        if self._recorder is None:
            return self.eager(batch)
        shape = self._shape(batch)
        if (recording := self._recordings.get(shape)) is not None:
            if recording.stands():
                return recording(batch)
            del self._recordings[shape]
        self._counts[shape] += 1
        if self._counts[shape] > WARM_UP and len(self._recordings) < SHAPES:
            # Once for a shape, it may wait: who asks torch to report that means the steps.
            with sync_debug(self.run.device, "default"):
                self._record(shape, batch, self._recorder)
            return self(batch)
        with self._recorder.aside():
            return self.eager(batch)

    def forget(self) -> None:
        """Drop the recordings: an experience begins or has ended, and parts may compute something else from here on."""
        self._recordings.clear()
        self._counts.clear()

    def describe(self) -> str:
        """Return how the run's gradients were computed, for the record."""
        how = f"{self.recorded} recorded" if self.recorded else "eager"
        return f"{how}: {self.reason}" if self.reason else how

    def _shape(self, batch: Batch) -> Any:
        """Return all that decides which operations a gradient takes: equal shapes, equal operations."""
        stored = [
            value.place
            for part in self.run.strategy.parts
            if overrides(part, "losses")
            for value in vars(part).values()
            if isinstance(value, Memory)
        ]
        shapes = [tensor.shape for tensor in _tensors(batch)]
        return batch.new, self.run.model.training, *shapes, *stored

    def _record(self, shape: Any, batch: Batch, recorder: Recorder) -> None:
        """Record the gradient of this batch's shape; keep that if it proves right for this batch."""
        run = self.run
        with run.uncounted():
            try:
                # What waits is found before it breaks a capture off, which leaves generators and allocator half in it.
                with run.tentatively(), sync_debug(run.device, "error"), recorder.aside():
                    self.eager(batch)
                    wanted = [None if p.grad is None else p.grad.clone() for p in run.model.parameters()]
                with run.tentatively():
                    recording = _Recording(run, self.eager, batch, recorder)
            except RuntimeError as error:
                self.reason = f"it cannot be recorded: {str(error).splitlines()[0][:200]}"
            else:
                with run.tentatively():
                    recording(batch)
                apart = distance(wanted, [p.grad for p in run.model.parameters()])
                if not apart <= TOLERANCE[run.precision.name]:
                    self.reason = f"{APART} by {apart:.1g} of the gradient's norm"
        if self.reason:
            self._recorder = None
            self.forget()
        else:
            self._recordings[shape] = recording
            self.recorded += 1


class _Recording:
    """The gradient of one shape of batch."""

    def __init__(self, run: Run, eager: Eager, batch: Batch, recorder: Recorder) -> None:
        self.run = run
        self.batch = replace(batch, **{name: value.clone() for name, value in _columns(batch).items()})
        self.inputs = _tensors(self.batch)
        counted = run.forwards

        def work() -> None:
            out, losses = eager(self.batch)
            self.out = Output(out.logits.detach(), out.features.detach())
            self.losses = {name: loss.detach() for name, loss in losses.items()}

        generators = [g for g in run.generators() if g.device.type == run.device.type]
        self.replay = recorder.record(work, generators)
        self.forwards = run.forwards - counted
        self.grads = [p.grad for p in run.model.parameters()]
        self.place = self._place()

    def __call__(self, batch: Batch) -> tuple[Output, dict[str, Tensor]]:
        for mine, given in zip(self.inputs, _tensors(batch), strict=True):
            mine.copy_(given)
        self.replay()
        self.run.forwards += self.forwards
        for parameter, grad in zip(self.run.model.parameters(), self.grads, strict=True):
            parameter.grad = grad
        # The recording's own tensors are written again at the next step.
        out = Output(self.out.logits.clone(), self.out.features.clone())
        return out, {name: loss.clone() for name, loss in self.losses.items()}

    def stands(self) -> bool:
        """Whether the weights still lie where they lay, and the same ones learn."""
        return self._place() == self.place

    def _place(self) -> list[tuple[int, bool]]:
        return [
            (w.data_ptr(), w.requires_grad) for w in (*self.run.model.parameters(), *self.run.model.buffers())
        ]


def distance(wanted: Sequence[Tensor | None], found: Sequence[Tensor | None]) -> float:
    """‖wanted − found‖ / ‖wanted‖ over all gradients; infinite where one of the two is missing, or not finite."""
    if [g is None for g in wanted] != [g is None for g in found]:
        return math.inf
    pairs = [
        (a.double(), b.double())
        for a, b in zip(wanted, found, strict=True)
        if a is not None and b is not None
    ]
    if not pairs:
        return 0.0
    sums = torch.stack([torch.stack([(a - b).square().sum(), a.square().sum()]) for a, b in pairs])  # (P, 2)
    norms = [sum(column) for column in zip(*sums.tolist(), strict=True)]  # fetched in one copy
    apart = 0.0 if norms[0] == 0 else math.sqrt(norms[0] / norms[1]) if norms[1] else math.inf
    return apart if math.isfinite(apart) else math.inf


def _columns(batch: Batch) -> dict[str, Any]:
    return {f.name: value for f in fields(batch) if isinstance(value := getattr(batch, f.name), Tensor)}


def _tensors(batch: Batch) -> list[Tensor]:
    return [*_columns(batch).values()]
