"""Recording a step's gradient and doing it again: when it happens, when not, and what is then the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from clbench import Batch, Output, Strategy, chain, make_strategy
from clbench.engine.capture import WARM_UP, Gradients, distance, obstacle
from clbench.engine.engine import Engine
from clbench.parts import CrossEntropy
from clbench.testing import tiny_benchmark
from clbench.testing.tape import Tape
from clbench.testing.tiny import tiny_run


def taped(strategy: str | Strategy = "finetune", **how: Any) -> Engine:
    """A run whose gradients are recorded on a tape."""
    made = make_strategy(strategy) if isinstance(strategy, str) else strategy
    run = tiny_run(made, tiny_benchmark(), **how)
    run.gradients = Gradients(run, run.backward, Tape())
    return run


class Calls(Strategy):
    """How often Python came by."""

    capturable = True
    calls = 0

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        self.calls += 1
        return {}


def test_recorded_steps_leave_python_out() -> None:
    part = Calls()
    run = taped(chain(CrossEntropy(), part), batch_size=8)
    run.fit()
    # In each experience: the steps before the recording, one to compare with, and the recording itself.
    assert (run.gradients.recorded, part.calls) == (len(run.train), len(run.train) * (WARM_UP + 2))
    assert run.step > part.calls


def test_the_budget_counts_every_forward_pass() -> None:
    eager = tiny_run(make_strategy("derpp", memory=20), tiny_benchmark())
    eager.fit()
    run = taped(make_strategy("derpp", memory=20))
    run.fit()
    assert run.gradients.recorded
    assert run.forwards == eager.forwards


def test_what_is_handed_out_stays_as_it_was() -> None:
    """The recording's tensors are written again at the next step; what a part keeps must not be."""
    seen: list[tuple[Tensor, Tensor]] = []

    class Keeps(Strategy):
        def after_step(self, batch: Batch, out: Output) -> None:
            seen.append((out.logits, out.logits.clone()))

    run = taped(chain(CrossEntropy(), Keeps()))
    run.fit()
    assert run.gradients.recorded
    assert all(torch.equal(kept, then) for kept, then in seen)


def test_weights_that_moved_elsewhere_are_recorded_anew() -> None:
    """A part that puts other tensors in the parameters' place must not train those of before."""

    class Moves(Strategy):
        def after_step(self, batch: Batch, out: Output) -> None:
            if self.run.step == 12:
                for p in self.run.model.parameters():
                    p.data = p.data.clone()

    plain, run = (
        tiny_run(chain(CrossEntropy(), Moves()), tiny_benchmark()),
        taped(chain(CrossEntropy(), Moves())),
    )
    plain.fit()
    run.fit()
    for name, w in plain.model.state_dict().items():
        assert torch.equal(w, run.model.state_dict()[name]), name


def test_a_recording_that_is_wrong_is_not_used() -> None:
    class Worn(Tape):
        def record(
            self, work: Callable[[], None], generators: Sequence[torch.Generator]
        ) -> Callable[[], None]:
            play = super().record(work, generators)
            first = next(run.model.parameters()).grad
            assert first is not None

            def replay() -> None:
                play()
                first.mul_(1.5)

            return replay

    plain, run = (
        tiny_run(make_strategy("er", memory=20), tiny_benchmark()),
        taped(make_strategy("er", memory=20)),
    )
    run.gradients = Gradients(run, run.backward, Worn())
    run.fit()
    plain.fit()
    assert run.gradients.reason.startswith("what was recorded is off by")
    for name, w in plain.model.state_dict().items():
        assert torch.equal(w, run.model.state_dict()[name]), name


def test_a_part_that_does_not_declare_it_runs_eagerly() -> None:
    class Own(Strategy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            return {"own": out.logits.square().mean()}

    run = taped(chain(CrossEntropy(), Own()))
    run.fit()
    assert run.gradients.describe() == "eager: Own does not say that it can be recorded (capturable)"


def test_a_subclass_declares_it_anew() -> None:
    class Own(CrossEntropy):
        def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
            return {"own": out.logits.square().mean()}

    assert taped(Own()).gradients.reason.startswith("Own does not say")


def test_on_a_cpu_nothing_is_recorded() -> None:
    run = tiny_run(make_strategy("finetune"), tiny_benchmark())
    assert obstacle(run) == "a cpu has no graphs"


@pytest.mark.parametrize(
    ("wanted", "found", "apart"),
    [
        ([[3.0, 4.0]], [[3.0, 4.0]], 0.0),
        ([[3.0, 4.0]], [[3.0, 4.5]], 0.1),
        ([[3.0], [4.0]], [[0.0], [4.0]], 0.6),
        ([[0.0]], [[0.0]], 0.0),
        ([None, [1.0]], [None, [1.0]], 0.0),
        ([None], [[1.0]], float("inf")),
        ([[1.0]], [[float("nan")]], float("inf")),
    ],
)
def test_distance(wanted: list[Any], found: list[Any], apart: float) -> None:
    a, b = ([None if g is None else torch.tensor(g) for g in gradients] for gradients in (wanted, found))
    assert distance(a, b) == pytest.approx(apart)
