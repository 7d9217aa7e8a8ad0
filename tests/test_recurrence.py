"""Environments in which the past recurs: counts by age, equal totals, three readings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from clbench.data import changed_domains, class_incremental, permutations, rehearse
from clbench.data.recurrence import lag_weights, share_out
from clbench.errors import ConfigError
from clbench.registry import benchmarks
from clbench.testing import check_benchmark
from clbench.types import Data, Experience, Pool, Stream


def counts(total: int, lags: int, decay: Any, rate: float = 1.0) -> list[int]:
    return share_out(total, lag_weights(decay, lags, rate)).tolist()


@pytest.mark.parametrize(
    ("decay", "rate", "expected"),
    [
        ("power", 1.0, [353, 177, 118, 88, 71, 59, 51, 44, 39]),
        ("power", 0.5, [213, 150, 123, 106, 95, 87, 80, 75, 71]),
        ("exponential", 0.5, [398, 241, 146, 89, 54, 33, 20, 12, 7]),
        ("uniform", 1.0, [112, *[111] * 8]),
        ("recency", 1.0, [1000, *[0] * 8]),
        ("none", 1.0, [0] * 9),
    ],
)
def test_counts_of_a_thousand(decay: str, rate: float, expected: list[int]) -> None:
    assert counts(1000, 9, decay, rate) == expected


def test_counts_of_a_hundred() -> None:
    assert counts(100, 3, "power") == [55, 27, 18]
    assert counts(100, 3, "exponential", 0.5) == [51, 31, 18]
    assert counts(100, 3, "uniform") == [34, 33, 33]


@pytest.mark.parametrize("seed", range(3))
def test_largest_remainders(seed: int) -> None:
    """Against one unit at a time, to whoever is furthest below the whole number above her quota."""
    drawn = np.random.default_rng(seed)
    for _ in range(50):
        weights, total = drawn.random(drawn.integers(1, 12)), int(drawn.integers(0, 500))
        quota = [total * w / weights.sum() for w in weights]
        expected = [int(q) for q in quota]
        while sum(expected) < total:
            remainders = [q - int(q) if e == int(q) else -1 for q, e in zip(quota, expected, strict=True)]
            expected[remainders.index(max(remainders))] += 1
        assert share_out(total, weights).tolist() == expected


def test_slopes() -> None:
    lag = np.arange(1, 21)
    for rate in (0.5, 1.0, 2.0):
        power = np.polyfit(np.log(lag), np.log(counts(10**8, 20, "power", rate)), 1)[0]
        assert power == pytest.approx(-rate, abs=0.02)
    assert np.polyfit(lag, np.log(counts(10**8, 20, "exponential", 0.5)), 1)[0] == pytest.approx(
        -0.5, abs=0.02
    )


def test_limits() -> None:
    assert lag_weights("power", 9, 0.0).tobytes() == lag_weights("uniform", 9, 1.0).tobytes()
    assert lag_weights("power", 9, np.inf).tolist() == lag_weights("recency", 9, 1.0).tolist()
    with pytest.raises(ConfigError, match="0 or more; -1 was given"):
        lag_weights("power", 3, -1)


# --- streams ---


def stream(n: int, examples: int = 1200) -> Stream:
    """Experience i holds class i, and its inputs are row numbers of the pool."""
    y = torch.arange(n).repeat_interleave(examples)
    pool = Pool(torch.arange(len(y), dtype=torch.float32).unsqueeze(1), y)
    return Stream(
        "train",
        tuple(
            Experience(i, (i,), Data.of(pool, torch.arange(i * examples, (i + 1) * examples)))
            for i in range(n)
        ),
    )


def recurring(train: Stream, **how: Any) -> np.ndarray[Any, Any]:
    """(experiences, classes) how many examples of each class an experience holds."""
    mixed = rehearse(train, **how)
    return np.stack([np.bincount(exp.data.y().numpy(), minlength=len(train)) for exp in mixed])


def test_old_examples_of_every_experience() -> None:
    held = recurring(stream(10), old=1000)
    assert held[9].tolist() == [39, 44, 51, 59, 71, 88, 118, 177, 353, 1200]
    assert held[0].tolist() == [1200] + [0] * 9
    assert not np.triu(held, 1).any()


@pytest.mark.parametrize("schedule", ["power", "exponential", "uniform", "recency", "blocked"])
@pytest.mark.parametrize("old", [7, 1000])
def test_equal_totals_to_the_unit(schedule: Any, old: int) -> None:
    held = recurring(stream(10), schedule=schedule, rate=0.7, old=old)
    assert np.tril(held, -1).sum() == 9 * old
    if schedule != "blocked":
        assert np.tril(held, -1).sum(1).tolist() == [0] + [old] * 9
    else:
        assert held[9].tolist() == [old] * 9 + [1200]


def test_nothing_recurs() -> None:
    assert not np.tril(recurring(stream(4), schedule="none", old=500), -1).any()
    assert not np.tril(recurring(stream(4), old=0), -1).any()


def test_old_examples_are_fresh_and_come_once() -> None:
    train = stream(3)
    mixed = rehearse(train, schedule="recency", old=300)
    rows = [exp.data.x().flatten().long().tolist() for exp in mixed]
    assert all(len(set(r)) == len(r) for r in rows)
    old = [{r for r in rows[k] if r < k * 1200} for k in (1, 2)]
    assert [len(o) for o in old] == [300, 300]
    again = rehearse(stream(3), schedule="uniform", old=600)
    first = [{r for r in exp.data.x().flatten().long().tolist() if r < 1200} for exp in list(again)[1:]]
    assert (
        0 < len(first[0] & first[1]) < len(first[1])
    )  # drawn anew: 600 and 300 of 1200 share 150 on average


def test_size_limits_what_is_new_but_not_what_recurs() -> None:
    mixed = rehearse(stream(3), schedule="recency", old=900, size=100)
    assert [len(exp) for exp in mixed] == [100, 1000, 1000]
    new = set(mixed[0].data.x().flatten().long().tolist())
    old = {r for r in mixed[1].data.x().flatten().long().tolist() if r < 1200}
    assert len(old - new) > 700


def test_classes_seeds_and_tests() -> None:
    train = stream(4)
    mixed = rehearse(train, schedule="recency", old=10)
    assert [exp.classes for exp in mixed] == [(0,), (0, 1), (1, 2), (2, 3)]
    assert [exp.tests for exp in mixed] == [(0,), (1,), (2,), (3,)]
    same, other = (
        rehearse(train, schedule="recency", old=10),
        rehearse(train, schedule="recency", old=10, seed=1),
    )
    assert torch.equal(mixed[1].data.x(), same[1].data.x())
    assert not torch.equal(mixed[1].data.x(), other[1].data.x())


def test_domains_keep_their_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (40, 1, 3, 3), dtype=torch.uint8, generator=generator)
    pool = Pool(x, torch.arange(40) % 2)
    train = changed_domains(pool, pool, permutations(3, 9, seed=0)).train
    mixed = rehearse(train, schedule="uniform", old=10)
    known = [{row.numpy().tobytes() for row in exp.data.x()} for exp in train]
    for row in mixed[2].data.x():
        assert any(row.numpy().tobytes() in domain for domain in known)
    assert sum(row.numpy().tobytes() in known[0] for row in mixed[2].data.x()) == 5


# --- the other readings ---


def test_probabilistic_reading() -> None:
    """Experience k − ℓ recurs with min(1, a / ℓ), with r examples; 2.829 · a · r in all at k = 10."""
    train, a, r = stream(10, 30), 0.6, 20
    held = np.stack(
        [recurring(train, reading="probabilistic", chance=a, old=r, seed=seed) for seed in range(400)]
    )
    last = held[:, 9, :9]
    assert set(np.unique(last)) == {0, r}
    lag = np.arange(9, 0, -1)
    assert np.abs((last > 0).mean(0) - a / lag).max() < 0.08  # three standard deviations
    assert last.sum(1).mean() == pytest.approx(2.829 * a * r, rel=0.08)
    likely = recurring(train, reading="probabilistic", chance=1.0, rate=0.0, old=r)
    assert (likely[9, :9] == r).all()


def test_renewal_reading() -> None:
    """The clock of an experience starts again when it recurs: against a straightforward simulation."""
    train, a = stream(12, 10), 0.5
    total = np.zeros(12)
    for seed in range(300):
        total += recurring(train, reading="renewal", chance=a, old=4, seed=seed)[:, 0] > 0
    drawn, expected = np.random.default_rng(0), np.zeros(12)
    for _ in range(3000):
        last = 0
        for k in range(1, 12):
            if drawn.random() < a / (k - last):
                expected[k] += 1
                last = k
    assert np.abs(total[1:] / 300 - expected[1:] / 3000).max() < 0.1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"old": 1300, "schedule": "recency"},
            "1300 examples of experience 1 were asked for, which has 1200",
        ),
        ({"size": 1300}, "1300 examples of experience 1"),
        ({"old": -1}, "old is 0 or more"),
        ({"schedule": "blocked", "reading": "renewal"}, "'blocked' has no renewal reading"),
        ({"reading": "renewal", "chance": 1.0}, "below 1 in the renewal reading"),
        ({"reading": "probabilistic", "chance": 1.5}, r"chance lies in \[0, 1\]"),
    ],
)
def test_environments_that_cannot_be(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rehearse(stream(3), **how)


def test_task_labels_are_refused() -> None:
    y = torch.arange(4).repeat(5)
    pool = Pool(torch.zeros(20, 2), y)
    train = class_incremental(pool, pool, experiences=2, task_labels=True).train
    with pytest.raises(ConfigError, match="task labels"):
        rehearse(train, old=1)


# --- benchmarks ---


@pytest.mark.parametrize("name", [n for n in benchmarks.names() if n.startswith("power-law")])
def test_benchmarks_keep_the_rules(name: str) -> None:
    """Those whose data is not here are skipped within."""
    for result in check_benchmark(name):
        assert result.status in ("passed", "skipped"), result
    entry = benchmarks.entry(name)
    assert all(
        parameter in str(entry.build.__doc__)
        for parameter in entry.signature().parameters
        if parameter not in ("experiences", "class_order")
    )


def test_digits() -> None:
    benchmark = benchmarks.make("power-law-permuted-digits", seed=3)
    assert [len(exp) for exp in benchmark.train] == [500] + [600] * 9
    assert benchmark.seed == 3
    assert (
        benchmark.fingerprint
        != benchmarks.make("power-law-permuted-digits", seed=3, schedule="uniform").fingerprint
    )
    plain = benchmarks.make("permuted-digits", domains=10, seed=3)
    none = benchmarks.make("power-law-permuted-digits", seed=3, schedule="none", size=None)
    assert none.fingerprint == plain.fingerprint
