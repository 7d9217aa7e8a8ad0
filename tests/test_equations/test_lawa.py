"""LAWA: the mean of the last k checkpoints, taken every ν updates; SWA, of all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clbench import Classifier, make_strategy
from clbench.config import OptimConfig
from clbench.engine.engine import Engine
from clbench.testing import difference, tiny_benchmark, tiny_model, tiny_run
from clbench.testing.tools import everything


def averaging(base: str = "finetune", model: Classifier | None = None, **params: Any) -> Engine:
    return tiny_run(make_strategy(f"{base}+lawa", **params), tiny_benchmark(), model=model, every=1)


@pytest.mark.parametrize(
    ("last", "means"),
    [(3, (1.0, 1.5, 7 / 3, 14 / 3)), (None, (1.0, 1.5, 7 / 3, 3.75)), (1, (1.0, 2.0, 4.0, 8.0))],
)
def test_of_four_checkpoints_by_hand(last: int | None, means: tuple[float, ...]) -> None:
    """Weights 1, 2, 4, 8: LAWA of three 4.6667, SWA 3.75."""
    run = averaging(last=last, period=1, model=Classifier(nn.Identity(), 8, 6))
    part = run.strategy.parts[1]
    for weight, mean in zip((1.0, 2.0, 4.0, 8.0), means, strict=True):
        nn.init.constant_(run.model.head.weight, weight)
        part.after_update()
        torch.testing.assert_close(part.average.head.weight, torch.full((6, 8), mean))


@pytest.mark.parametrize(
    ("params", "which"),
    [
        ({"last": 2, "period": 3}, [9, 12]),
        ({"last": 3, "period": 2, "start": 5}, [7, 9, 11]),
        ({"last": None, "period": 5}, [5, 10]),
        ({"last": 2, "period": 1, "restart": True}, [11, 12]),
        ({"last": None, "period": 1, "start": 2, "restart": True}, [11, 12]),
    ],
    ids=str,
)
def test_every_entry_over_a_run(params: dict[str, Any], which: list[int]) -> None:
    """Three experiences of four updates; which updates are averaged at the end."""
    seen: list[dict[str, Tensor]] = []
    run = averaging(**params)
    part = run.strategy.parts[1]
    call = part.after_update

    def recorded() -> None:
        seen.append({k: v.double().clone() for k, v in run.model.state_dict().items()})
        call()

    run.points.after_update = [recorded]
    run.fit()
    assert len(seen) == 12
    for name, value in part.average.state_dict().items():
        found = [seen[n - 1][name] for n in which]
        expected = found[-1] if name.endswith("num_batches_tracked") else sum(found) / len(found)
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("base", ["finetune", "derpp+refresh"])
def test_training_is_the_same_bit_for_bit(base: str) -> None:
    plain = tiny_run(make_strategy(base), tiny_benchmark(), every=1)
    states = []
    for run in (plain, averaging(base, period=2)):
        run.fit()
        state = everything(run)
        states.append({k: state[k] for k in ("model", "optimizer", "generators", "counters")})
    assert difference(*states) is None


@pytest.mark.parametrize("last", [3, None])
def test_weights_that_stay_are_their_own_mean(last: int | None) -> None:
    model = tiny_model(tiny_benchmark())
    for p in model.parameters():  # a step of 10⁻³⁰ is none for a weight that is not zero
        nn.init.uniform_(p, 0.1, 1.0)
    strategy = make_strategy("finetune+lawa", last=last, period=1)
    run = tiny_run(strategy, tiny_benchmark(), model=model, optim=OptimConfig(lr=1e-30))
    run.fit()
    average = run.strategy.parts[1].average
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), average.parameters(), strict=True))


def test_until_a_checkpoint_is_taken_the_weights_predict() -> None:
    run = averaging(last=1, period=100)
    run.fit()
    x = run.benchmark.test[0].data.x()
    with torch.no_grad(), run.evaluating():
        assert torch.equal(run.predict(x, torch.full((len(x),), -1)), run.model(x))
