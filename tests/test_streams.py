"""Streams: what lies where, and that a seed means the same on every machine."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from clbench.data import (
    bits,
    changed_domains,
    class_incremental,
    domain_incremental,
    few_shot,
    permutation,
    permutations,
    rotations,
)
from clbench.data.shares import Streams
from clbench.errors import ConfigError, DataError
from clbench.types import HIDDEN, Experience, Pool


def pools(labels: list[int], test_labels: list[int] | None = None) -> tuple[Pool, Pool]:
    """Pools whose inputs are the row numbers."""

    def pool(y: list[int]) -> Pool:
        return Pool(torch.arange(len(y), dtype=torch.float32).unsqueeze(1), torch.tensor(y))

    return pool(labels), pool(sorted(set(labels)) if test_labels is None else test_labels)


def rows(experience: Experience) -> list[int]:
    return [int(x) for x in experience.data.x().flatten()]


TRAIN, TEST = pools([3, 1, 0, 2] * 5, [0, 0, 1, 2, 3])


def test_classes_come_in_order_and_keep_their_numbers() -> None:
    streams = class_incremental(TRAIN, TEST, experiences=2, class_order=[3, 0, 2, 1])
    assert [e.classes for e in streams.train] == [(0, 3), (1, 2)]
    assert [e.classes for e in streams.test] == [(0, 3), (1, 2)]
    for experience in [*streams.train, *streams.test]:
        assert tuple(experience.data.y().unique().tolist()) == experience.classes
    assert [e.task for e in streams.train] == [HIDDEN, HIDDEN]
    assert streams.valid is None


def test_rows_stay_in_the_order_of_the_data_set() -> None:
    """A memory of the first examples would otherwise hold one class."""
    streams = class_incremental(TRAIN, TEST, experiences=2)
    assert rows(streams.train[0]) == [1, 2, 5, 6, 9, 10, 13, 14, 17, 18]
    assert streams.train[0].data.y().tolist() == [1, 0] * 5


def test_every_example_is_in_one_experience() -> None:
    streams = class_incremental(
        TRAIN, TEST, experiences=4, class_order="shuffled", valid_fraction=0.4, seed=1
    )
    assert streams.valid is not None
    seen = [r for stream in (streams.train, streams.valid) for e in stream for r in rows(e)]
    assert sorted(seen) == list(range(20))
    assert sorted(r for e in streams.test for r in rows(e)) == list(range(5))


@pytest.mark.parametrize(
    ("how", "sizes"),
    [
        ({"experiences": 1}, [4]),
        ({"experiences": 4}, [1, 1, 1, 1]),
        ({"first": 2, "increment": 1}, [2, 1, 1]),
        ({"first": 4, "increment": 3}, [4]),
    ],
)
def test_ways_to_share_out_classes(how: dict[str, int], sizes: list[int]) -> None:
    assert [len(e.classes) for e in class_incremental(TRAIN, TEST, **how).train] == sizes  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"experiences": 3},
            "4 classes cannot be shared out evenly over 3 experiences; experiences may be 1, 2, 4",
        ),
        ({"experiences": 0}, "experiences may be 1, 2, 4"),
        ({"first": 1, "increment": 0}, "and increment is 1 or more"),
        ({"first": 5, "increment": 1}, "first must lie in 1 … 4"),
        ({"first": 2}, "First and increment go together"),
        ({}, "in one way: .*; 0 of these"),
        ({"experiences": 2, "first": 2, "increment": 2}, "in one way: .*; 2 of these"),
        ({"experiences": 2, "class_order": [0, 1, 2]}, "every class of the data once; it has no 3"),
        ({"experiences": 2, "class_order": [0, 0, 1, 2]}, "it has 0 twice, no 3"),
        ({"experiences": 2, "class_order": [0, 1, 2, 9]}, "it has 9, which the data lack, no 3"),
        (
            {"experiences": 2, "class_order": "sorted"},
            "class_order is natural, shuffled, a list, .* published order: numpy-1993.*; 'sorted' was given",
        ),
        ({"experiences": 2, "valid_fraction": 1.0}, r"lies in \[0, 1\); 1.0 was given"),
        ({"experiences": 2, "valid_fraction": 0.01}, "leaves experience 1 no validation example"),
    ],
)
def test_streams_that_cannot_be(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        class_incremental(TRAIN, TEST, **how)


def test_classes_need_training_and_test_examples() -> None:
    with pytest.raises(DataError, match="Class 1 has no test examples, nor have 1 others"):
        class_incremental(*pools([0, 1, 2], [0]), experiences=3)
    with pytest.raises(DataError, match="Class 7 has no training examples"):
        class_incremental(*pools([0], [0, 7]), experiences=1)
    with pytest.raises(DataError, match="holds -1"):
        class_incremental(*pools([0, -1]), experiences=1)
    with pytest.raises(DataError, match="training pool is empty"):
        class_incremental(*pools([], []), experiences=1)


def test_classes_may_have_gaps() -> None:
    streams = class_incremental(*pools([5, 900_000, 5, 70]), experiences=3)
    assert [e.classes for e in streams.train] == [(5,), (70,), (900_000,)]


def test_task_labels_count_experiences() -> None:
    streams = class_incremental(TRAIN, TEST, experiences=2, valid_fraction=0.2, task_labels=True)
    assert streams.valid is not None
    for stream in (streams.train, streams.test, streams.valid):
        assert [e.task for e in stream] == [0, 1]


def test_validation_is_stratified_and_seeded() -> None:
    train, test = pools([0] * 40 + [1] * 20 + [2, 3] * 5)

    def split(seed: int) -> Streams:
        return class_incremental(train, test, experiences=2, valid_fraction=0.2, seed=seed)

    valid = split(0).valid
    assert valid is not None
    assert [e.data.y().bincount(minlength=4).tolist() for e in valid] == [[8, 4, 0, 0], [0, 0, 1, 1]]
    again, other = split(0).valid, split(1).valid
    assert again is not None
    assert other is not None
    assert rows(valid[0]) == rows(again[0])
    assert rows(valid[0]) != rows(other[0])
    assert rows(valid[0]) != list(range(8)) + list(range(40, 44))  # drawn, not the first ones


def test_a_validation_split_moves_no_class() -> None:
    plain = class_incremental(TRAIN, TEST, experiences=4, class_order="shuffled", seed=3)
    split = class_incremental(TRAIN, TEST, experiences=4, class_order="shuffled", seed=3, valid_fraction=0.2)
    assert [e.classes for e in plain.train] == [e.classes for e in split.train]


def test_a_class_of_one_example_stays_in_training() -> None:
    train, test = pools([0] * 10 + [1])
    streams = class_incremental(train, test, experiences=1, valid_fraction=0.5)
    assert streams.valid is not None
    assert streams.valid[0].data.y().tolist() == [0] * 5
    assert streams.train[0].data.y().tolist() == [0] * 5 + [1]


DOMAINS = {"domain_train": [1, 0, 1, 0] * 5, "domain_test": [0, 1, 1, 0, 0]}


def test_domains_are_experiences() -> None:
    streams = domain_incremental(TRAIN, TEST, **DOMAINS, names=["day", "night"], domain_order=[1, 0])
    assert [e.domain for e in streams.train] == ["night", "day"]
    assert [e.classes for e in streams.train] == [(0, 3), (1, 2)]
    assert rows(streams.train[0]) == list(range(0, 20, 2))
    assert [rows(e) for e in streams.test] == [[1, 2], [0, 3, 4]]


def test_validation_of_domains_is_stratified_by_class_and_domain() -> None:
    streams = domain_incremental(TRAIN, TEST, **DOMAINS, valid_fraction=0.4)
    assert streams.valid is not None
    assert [e.data.y().bincount(minlength=4).tolist() for e in streams.valid] == [[0, 2, 2, 0], [2, 0, 0, 2]]
    assert [e.domain for e in streams.valid] == ["domain 0", "domain 1"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"domain_train": [0, 1]}, r"each of the 20 examples; it is int64 of shape \(2,\)"),
        ({"domain_train": [0.0, 1.0] * 10}, "it is float64"),
        ({"domain_train": [0, -1] * 10}, "and holds -1"),
        ({"names": ["day"]}, "Domain 1 has no name; 1 names were given"),
        ({"domain_order": [0]}, "every domain of the data once; it has no 1"),
    ],
)
def test_domains_that_cannot_be(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        domain_incremental(TRAIN, TEST, **{**DOMAINS, **how})


def test_domains_need_test_examples() -> None:
    with pytest.raises(DataError, match="Domain 1 has no test examples"):
        domain_incremental(TRAIN, TEST, domain_train=DOMAINS["domain_train"], domain_test=[0] * 5)


def test_changes_are_experiences_of_all_examples() -> None:
    x = torch.arange(20 * 4, dtype=torch.uint8).view(20, 1, 2, 2)
    train, test = Pool(x, TRAIN.y), Pool(x[:5], TEST.y)
    streams = changed_domains(train, test, rotations([0, 180]), valid_fraction=0.2)
    assert [e.domain for e in streams.train] == ["0°", "180°"]
    assert streams.valid is not None
    assert [len(e) for e in streams.train] == [16, 16]
    assert torch.equal(streams.train[1].data.x(), streams.train[0].data.x().flip(2, 3))
    assert torch.equal(streams.valid[1].data.x(), streams.valid[0].data.x().flip(2, 3))
    assert streams.train[1].classes == (0, 1, 2, 3)
    with pytest.raises(ConfigError, match="different names; given: 0°, 0°"):
        changed_domains(train, test, rotations([0, 0]))
    with pytest.raises(ConfigError, match="different names; given: none"):
        changed_domains(train, test, [])


def test_more_permutations_continue_a_stream() -> None:
    def places(count: int, seed: int) -> list[Any]:
        return [change and change.describe() for _, change in permutations(count, 9, seed)]

    assert places(3, 0) == places(5, 0)[:3]
    assert places(3, 0)[0] is None
    assert places(3, 0)[1] != places(3, 0)[2]
    assert places(3, 0)[1] != places(3, 1)[1]
    with pytest.raises(ConfigError, match="at least one domain"):
        permutations(0, 9, 0)


def test_a_seed_means_the_same_everywhere() -> None:
    """Recorded once; a difference would silently make all benchmarks others."""
    assert bits(2, 0, "class order").tolist() == [14170419276636135407, 16908766664663587139]
    assert permutation(10, 0, "class order").tolist() == [7, 4, 9, 8, 2, 3, 0, 1, 6, 5]
    streams = class_incremental(
        TRAIN, TEST, experiences=4, class_order="shuffled", valid_fraction=0.2, seed=7
    )
    assert streams.valid is not None
    assert [e.classes for e in streams.train] == [(1,), (2,), (3,), (0,)]
    assert [rows(e) for e in streams.valid] == [[17], [3], [12], [14]]


def test_purposes_and_seeds_are_apart() -> None:
    drawn = [
        tuple(bits(4, seed, purpose)) for seed in (0, 1) for purpose in ("class order", "validation split")
    ]
    assert len(set(drawn)) == 4


def test_shuffled_orders_are_uniform() -> None:
    counts = np.zeros((5, 5))
    for seed in range(1000):
        counts[np.arange(5), permutation(5, seed, "class order")] += 1
    assert abs(counts - 200).max() < 64  # 5 standard deviations


def test_streams_do_not_touch_the_global_generators() -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    class_incremental(TRAIN, TEST, experiences=2, class_order="shuffled", valid_fraction=0.2)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_any_stream_partitions_its_data(data: st.DataObject) -> None:
    classes = data.draw(st.integers(1, 12))
    y = data.draw(
        st.lists(st.integers(0, classes - 1), min_size=1, max_size=60).map(lambda e: e + list(range(classes)))
    )
    experiences = data.draw(st.sampled_from([n for n in range(1, classes + 1) if classes % n == 0]))
    order = data.draw(st.permutations(range(classes)))
    train, test = pools(y)
    streams = class_incremental(train, test, experiences=experiences, class_order=order)
    size = classes // experiences
    for i, experience in enumerate(streams.train):
        assert experience.index == i
        assert experience.classes == tuple(sorted(order[i * size : (i + 1) * size]))
        assert rows(experience) == [r for r, c in enumerate(y) if c in experience.classes]


MANY = torch.arange(200_000) % 1000


def many_by_class(experiences: int) -> Streams:
    train, test = Pool(torch.zeros(len(MANY), 1), MANY), Pool(torch.zeros(2000, 1), MANY[:2000])
    return class_incremental(train, test, experiences=experiences, class_order="shuffled", valid_fraction=0.1)


def many_by_domain(experiences: int) -> Streams:
    train, test = Pool(torch.zeros(len(MANY), 1), MANY), Pool(torch.zeros(2000, 1), MANY[:2000])
    return domain_incremental(
        train, test, domain_train=MANY % experiences, domain_test=MANY[:2000] % experiences
    )


@pytest.mark.parametrize("make", [many_by_class, many_by_domain])
def test_a_thousand_experiences_take_the_memory_of_their_examples(make: Callable[[int], Streams]) -> None:
    """A mask for each experience would take 1,000 bytes an example."""
    tracemalloc.start()
    assert len(make(1000).train) == 1000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * len(MANY)


@pytest.mark.slow  # it takes the time, which other work on the machine takes, too
@pytest.mark.parametrize("make", [many_by_class, many_by_domain])
def test_a_thousand_experiences_take_the_time_of_their_examples(make: Callable[[int], Streams]) -> None:
    """They take 2 to 5 times as long as ten; with a look at all examples for each, 11 to 24 times."""

    def seconds(experiences: int) -> float:
        def once() -> float:
            start = time.process_time()
            make(experiences)
            return time.process_time() - start

        return min(once() for _ in range(5))

    assert seconds(1000) < 10 * seconds(10)


# --- few-shot ---


def ten_of_each(classes: int = 9) -> tuple[Pool, Pool]:
    return pools(
        [c for _ in range(10) for c in range(classes)], [c for _ in range(4) for c in range(classes)]
    )


def test_few_shot_sessions() -> None:
    """A base session with all its examples, then sessions of ways · shots; tests of all examples of the classes."""
    streams = few_shot(*ten_of_each(), base=5, ways=2, shots=3)
    assert [e.classes for e in streams.train] == [(0, 1, 2, 3, 4), (5, 6), (7, 8)]
    assert [len(e) for e in streams.train] == [50, 6, 6]
    assert [len(e) for e in streams.test] == [20, 8, 8]
    for trained, tested in zip(streams.train, streams.test, strict=True):
        assert trained.classes == tested.classes
        counts = torch.bincount(trained.data.y(), minlength=9)
        assert set(counts[list(trained.classes)].tolist()) == {10 if trained.index == 0 else 3}
    together = [row for e in streams.train for row in rows(e)]
    assert len(set(together)) == len(together)


def test_few_shot_draws_by_seed_and_class_alone() -> None:
    def shots(**spec: Any) -> list[list[int]]:
        return [rows(e) for e in few_shot(*ten_of_each(), base=5, ways=2, **spec).train[1:]]

    assert shots(shots=3) == shots(shots=3)
    assert shots(shots=3) != shots(shots=3, seed=1)
    for few, many in zip(shots(shots=2), shots(shots=6), strict=True):
        assert set(few) < set(many)
    other = [rows(e) for e in few_shot(*ten_of_each(), base=3, ways=2, shots=3).train[2:]]
    assert other == shots(shots=3)  # the sessions of classes 5, 6 and 7, 8


def test_few_shot_orders_and_leaves_out_classes() -> None:
    order = [8, 7, 6, 5, 4, 3, 2, 1, 0]
    streams = few_shot(*ten_of_each(), base=4, ways=2, shots=1, sessions=1, class_order=order)
    assert [e.classes for e in streams.train] == [(5, 6, 7, 8), (3, 4)]
    assert len(few_shot(*ten_of_each(), base=9, ways=2, shots=1).train) == 1


def test_few_shot_by_a_list() -> None:
    listed = [5, 14, 6, 15, 7, 16, 8, 17]  # rows c and 9 + c are of class c
    streams = few_shot(*ten_of_each(), base=5, ways=2, shots=2, rows=listed)
    assert [rows(e) for e in streams.train[1:]] == [[5, 6, 14, 15], [7, 8, 16, 17]]
    assert [
        rows(e) for e in few_shot(*ten_of_each(), base=5, ways=2, shots=2, rows=listed, seed=4).train[1:]
    ] == [
        [5, 6, 14, 15],
        [7, 8, 16, 17],
    ]


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([5, 14, 6, 15], "needs 8 rows, 2 of each class of 2 sessions; it has 4"),
        ([5, 14, 6, 15, 7, 16, 8, 90], "names row 90; the training examples have rows 0 … 89"),
        ([5, 5, 6, 15, 7, 16, 8, 17], "names row 5 twice"),
        ([5, 14, 6, 7, 15, 16, 8, 17], "gives session 1 row 7, which is of class 7; its classes are 5, 6"),
        ([5, 14, 23, 15, 7, 16, 8, 17], "gives session 1 3 rows of class 5, not 2"),
        ([5, 14, 6, -15, 7, 16, 8, 17], "holds -15"),
    ],
)
def test_few_shot_refuses_a_list_that_does_not_fit(listed: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        few_shot(*ten_of_each(), base=5, ways=2, shots=2, rows=listed)


def test_few_shot_refuses_what_the_data_lack() -> None:
    with pytest.raises(ConfigError, match="take 11 classes; the data have 9"):
        few_shot(*ten_of_each(), base=5, ways=2, shots=2, sessions=3)
    with pytest.raises(ConfigError, match="Class 5 has 10 training examples; 11 shots were asked for"):
        few_shot(*ten_of_each(), base=5, ways=2, shots=11)
    with pytest.raises(ConfigError, match="1 or more"):
        few_shot(*ten_of_each(), base=5, ways=0, shots=2)


def test_few_shot_validation_leaves_shots_alone() -> None:
    plain, held = (few_shot(*ten_of_each(), base=5, ways=2, shots=3, valid_fraction=f) for f in (0.0, 0.3))
    assert held.valid is not None
    assert [rows(e) for e in held.train[1:]] == [rows(e) for e in plain.train[1:]]
    assert len(held.train[0]) == 35
    for trained, validated in zip(held.train, held.valid, strict=True):
        assert not set(rows(trained)) & set(rows(validated))
        assert set(validated.data.y().tolist()) <= set(trained.classes)
