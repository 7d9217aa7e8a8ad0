"""Frequency replay: which classes join, how many of their examples are renewed, and what is masked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from clbench.strategies.frequency_replay import FrequencyReplay, rarest, renewed
from torch.nn import functional as F

from clbench import Batch, Output, chain, make_benchmark, make_strategy
from clbench.engine.engine import Engine
from clbench.parts import CrossEntropy
from clbench.testing import tiny_run, watch


def test_the_rarest_of_a_band_join() -> None:
    counts = [3, 9, 4, 2, 5, 3]  # of 40 experiences; class 3 came too seldom, class 1 too often
    assert rarest(counts, 40, [6, 7], low=0.01, high=0.2) == [0, 5]
    assert rarest(counts, 40, [0, 7], low=0.01, high=0.2) == [5, 2]
    assert rarest(counts, 40, [0, 1, 5], low=0.08, high=0.12) == [2]
    assert rarest(counts, 300, [0, 1], low=0.01, high=0.1) == [2, 4]  # those at 3/300 are not above 0.01
    assert rarest([0] * 6, 0, [0, 1], low=0.01, high=0.1) == []


def test_the_first_visit_stores_all_and_later_ones_ever_less() -> None:
    assert [renewed(200, n) for n in (0, 1, 2, 3, 9, 19, 50)] == [200, 100, 66, 50, 20, 10, 10]


def run_of(probe: Any = None, **params: Any) -> Engine:
    built = make_benchmark("scole", experiences=40, train_per_class=20)
    strategy = make_strategy("frequency-replay", **params)
    return tiny_run(strategy if probe is None else watch(strategy, probe), built, epochs=1)


def test_whole_classes_join_once_in_a_pass() -> None:
    joined: list[list[int]] = [[] for _ in range(40)]

    def probe(point: str, arguments: tuple[Any, ...], call: Any) -> Any:
        if point == "losses":
            batch: Batch = arguments[0]
            joined[run.experience] += batch.y[batch.new :].tolist()
        return call()

    run = run_of(probe, per_class=8, high=0.5)
    run.fit()
    part = next(p for p in run.strategy.parts if isinstance(p, FrequencyReplay))
    assert sum(map(len, joined)) > 0
    for exp, labels in zip(run.train, joined, strict=True):
        classes, times = np.unique(labels, return_counts=True)
        assert len(classes) <= 2
        assert not set(classes) & set(exp.classes)
        assert (times == 8).all()
    came = [sum(c in exp.classes for exp in run.train) for c in range(10)]
    again = [sum(c in labels for labels in joined) for c in range(10)]
    assert part.counts == [a + b for a, b in zip(came, again, strict=True)]
    held = torch.bincount(part.memory["y"], minlength=10).tolist()
    assert held == [8 * (n > 0) for n in came]


def test_random_fills_as_many_places_as_the_experience_has_classes() -> None:
    part = FrequencyReplay(5, "random", 0.0, 1.0, budget=1.0)
    run = tiny_run(chain(part, CrossEntropy()), make_benchmark("scole", experiences=3), epochs=1)
    part.counts = [1, 1, 0, 1, 0, 0, 0, 0, 0, 1]
    assert run.strategy.parts[0] is part
    drawn = [sorted(part._drawn((0, 2))) for _ in range(20)]
    assert all(len(set(of)) == 2 and set(of) <= {1, 3, 9} for of in drawn)
    assert len({tuple(of) for of in drawn}) == 3
    part.budget = 0.0
    assert part._drawn((0, 2)) == []


def test_absent_classes_get_no_gradient() -> None:
    run = run_of(loss="masked")
    replay, masked = run.strategy.parts[0], run.strategy.parts[-1]
    assert isinstance(replay, FrequencyReplay)
    replay.taught = torch.tensor([c in (1, 4, 7) for c in range(10)])
    logits = torch.randn(6, 10, requires_grad=True)
    y = torch.tensor([1, 4, 7, 1, 4, 7])
    batch = Batch(*[torch.zeros(6)] * 1, y, y, torch.zeros(6), y, y, 6)
    loss = masked.losses(batch, Output(logits, logits))["fit"]
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[:, ~replay.taught] == 0).all()
    columns = torch.tensor([1, 4, 7])
    expected = F.cross_entropy(logits[:, columns], torch.searchsorted(columns, y))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
