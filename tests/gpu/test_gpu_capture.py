"""A step's gradient as one launch, on a GPU: that it is recorded at all, and that nothing else comes out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from clbench import make_strategy
from clbench.engine.capture import Gradients
from clbench.engine.engine import Engine
from clbench.testing import tiny_benchmark
from clbench.testing.tiny import tiny_run

pytestmark = pytest.mark.gpu


def fitted(strategy: str, capture: str, **how: Any) -> Engine:
    run = tiny_run(make_strategy(strategy), tiny_benchmark(images=True), batch_size=8, device="cuda", **how)
    run.execution = run.execution.model_copy(update={"capture": capture})
    run.gradients = Gradients(run, run.backward)
    run.fit()
    return run


def weights(run: Engine) -> dict[str, Tensor]:
    return {name: w.cpu() for name, w in run.model.state_dict().items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "strategy", ["finetune", "er", "er-ace", "derpp", "pcr", "scr", "lwf", "ewc", "l2", "pred-kd"]
)
def test_recorded_as_eager(strategy: str, precision: str) -> None:
    recorded, eager = (fitted(strategy, capture, precision=precision) for capture in ("auto", "never"))
    assert recorded.gradients.describe() == f"{recorded.gradients.recorded} recorded"
    assert recorded.gradients.recorded > 0
    assert recorded.forwards == eager.forwards
    for name, w in weights(eager).items():
        torch.testing.assert_close(
            weights(recorded)[name], w, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_what_was_not_wanted_is_not_recorded() -> None:
    assert fitted("er", "never").gradients.describe() == "eager: it was not wanted (execution.capture)"
