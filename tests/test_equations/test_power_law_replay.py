"""Replay by age: an example of lag ℓ is drawn with probability ∝ ℓ^−d / (examples held of that lag)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clbench.strategies.power_law_replay import draw_by_age

from clbench import Batch, make_strategy
from clbench.data.recurrence import lag_weights
from clbench.testing import tiny_benchmark, tiny_run, watch

LAGS = torch.tensor([0] * 30 + [1] * 10 + [2] * 60 + [3] * 20 + [4] * 5)


@pytest.mark.parametrize(
    ("decay", "rate"), [("power", 1.0), ("power", 2.0), ("exponential", 0.5), ("uniform", 1.0)]
)
def test_shares_do_not_depend_on_what_is_held(decay: Any, rate: float) -> None:
    weights = torch.from_numpy(lag_weights(decay, 4, rate)).float()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([draw_by_age(1, LAGS, weights, generator) for _ in range(4000)])
    share = torch.bincount(LAGS[drawn], minlength=5) / 4000
    torch.testing.assert_close(share, torch.cat([torch.zeros(1), weights / weights.sum()]), atol=0.03, rtol=0)
    of_second = torch.bincount(drawn[LAGS[drawn] == 2] - 40, minlength=60) / len(drawn[LAGS[drawn] == 2])
    assert of_second.max() < 4 / 60  # every example of an experience alike


def test_second_draw_is_proportional_too() -> None:
    """Three examples of weights 1, ½, ⅓: the probabilities of the six orders, one after the other."""
    lag, weights = torch.tensor([1, 2, 3]), 1 / torch.arange(1.0, 4)
    generator = torch.Generator().manual_seed(1)
    orders: dict[tuple[int, ...], int] = {}
    for _ in range(6000):
        key = tuple(draw_by_age(2, lag, weights, generator).tolist())
        orders[key] = orders.get(key, 0) + 1
    w = weights.tolist()
    for (i, j), times in orders.items():
        expected = w[i] / sum(w) * w[j] / (sum(w) - w[i])
        assert times / 6000 == pytest.approx(expected, abs=0.025)
    assert len(orders) == 6


def test_no_example_twice_and_the_present_last() -> None:
    generator = torch.Generator().manual_seed(2)
    drawn = draw_by_age(110, LAGS, torch.ones(4), generator)
    assert len(drawn.unique()) == 110
    assert int((LAGS[drawn] == 0).sum()) == 110 - 95
    recent = draw_by_age(12, LAGS, torch.tensor([1.0, 0, 0, 0]), generator)
    assert int((LAGS[recent] == 1).sum()) == 10
    assert int((LAGS[recent] == 0).sum()) == 0


def test_batches_of_a_run() -> None:
    """Nothing in the first experience; afterwards as many old examples as new ones, of past classes."""
    seen: list[tuple[int, Batch]] = []

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point == "losses":
            seen.append((run.experience, arguments[0]))
        return call()

    strategy = watch(make_strategy("power-law-replay", memory=100), probe)
    run = tiny_run(strategy, tiny_benchmark(), batch_size=16, epochs=2)
    run.fit()
    for experience, batch in seen:
        assert len(batch) == (16 if experience == 0 else 32)
        assert bool((batch.y[16:] < 2 * experience).all())
        assert int(batch.replayed.sum()) == len(batch) - 16
    last = torch.cat([batch.y[16:] for experience, batch in seen if experience == 2])
    assert float((last >= 2).double().mean()) == pytest.approx(2 / 3, abs=0.12)
