"""Frequency-aware replay: quotas, rooms, what is given up, and what a memory holds in a run."""

from __future__ import annotations

import pytest
import torch
from clbench.strategies.frequency_aware_replay import FrequencyAware, best, quotas, surplus, wanted

from clbench import make_benchmark, make_strategy
from clbench.testing import tiny_run


def test_quotas_and_rooms() -> None:
    counts = [1, 2, 0, 4]
    assert list(quotas(counts).values()) == pytest.approx([0.57142857, 0.28571429, 0.14285714])
    assert wanted(counts, 10) == [6, 3, 0, 2]
    assert surplus(counts, [6, 3, 0, 2], 10) == {3: 1}
    assert surplus(counts, [6, 3, 0, 1], 10) == {}
    assert surplus([1, 1, 1], [5, 5, 5], 10) == {0: 2, 1: 2, 2: 1}


def test_the_largest_keys_of_each_class_stay_in_order() -> None:
    keys, y = torch.tensor([0.1, 0.9, 0.5, 0.4, 0.8]), torch.tensor([0, 1, 1, 0, 1])
    assert best(keys, y, [1, 2]).tolist() == [1, 3, 4]
    assert best(keys, y, [0, 1]).tolist() == [1]


def test_rare_classes_hold_more() -> None:
    built = make_benchmark("scole", experiences=60, entropy=4.0, train_per_class=40)
    run = tiny_run(make_strategy("frequency-aware-replay", memory=60), built, epochs=1)
    run.fit()
    part = run.strategy.parts[0]
    assert isinstance(part, FrequencyAware)
    held = torch.bincount(part.memory["y"], minlength=10)
    came = torch.tensor([sum(c in exp.classes for exp in run.train) for c in range(10)])
    assert part.counts == came.tolist()
    assert int(held.sum()) <= 60
    assert all(n <= room for n, room in zip(held.tolist(), part.rooms, strict=True))
    assert held[came.argmin()] > held[came.argmax()]
