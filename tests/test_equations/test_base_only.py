"""Base only: one experience is learned, and the sessions after it change nothing at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from clbench import make_strategy
from clbench.results import metrics
from clbench.testing import difference, tiny_run
from clbench.types import Benchmark


def test_the_base_session_is_cross_entropy_over_its_classes(
    few_shot_benchmark: Callable[..., Benchmark],
) -> None:
    run = tiny_run(make_strategy("base-only"), few_shot_benchmark())
    part = run.strategy.parts[1]
    part.begin_experience(run.train[0])
    x, y = run.train[0].data.take(torch.arange(30))
    out = run.forward(x)
    loss = part.losses(_batch(x, y), out)["fit"]
    z = (out.features.double() @ run.model.head.inner.weight.double().T + run.model.head.inner.bias.double())[
        :, :4
    ]
    expected = (z.logsumexp(1) - z[torch.arange(30), y]).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)


def test_later_sessions_move_neither_weights_nor_running_statistics(
    few_shot_benchmark: Callable[..., Benchmark],
) -> None:
    benchmark = few_shot_benchmark()
    run = tiny_run(make_strategy("base-only"), benchmark, epochs=3)
    states = []
    end = run.evaluator.end_experience

    def look() -> None:
        states.append({name: value.clone() for name, value in run.model.state_dict().items()})
        end()

    run.evaluator.end_experience = look  # type: ignore[method-assign]
    run.fit()
    for state in states[1:]:
        state.pop("backbone.settled")
    states[0].pop("backbone.settled")
    assert difference(states[0], states[1]) is None
    assert difference(states[0], states[2]) is None
    assert run.updates == 3 * 3  # passes of 96 examples in batches of 32


def test_its_accuracy_is_the_base_sessions_times_the_share_of_base_classes(
    few_shot_benchmark: Callable[..., Benchmark],
) -> None:
    run = tiny_run(make_strategy("base-only"), few_shot_benchmark(), epochs=4)
    run.fit()
    curve = run.evaluator.curve
    base = metrics.base_accuracy(curve)
    assert base is not None
    assert base > 0.9
    expected = [base * 4 / (4 + 2 * t) for t in range(3)]
    assert metrics.session_accuracies(curve).tolist() == pytest.approx(expected, abs=1e-12)
    assert metrics.harmonic_mean(curve) == metrics.novel_accuracy(curve) == 0


def _batch(x: torch.Tensor, y: torch.Tensor):  # type: ignore[no-untyped-def]
    from clbench import Batch

    zeros = torch.zeros_like(y)
    return Batch(x, y, zeros - 1, x, zeros, zeros, len(y))
