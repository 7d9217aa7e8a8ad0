"""Streams in which classes come back: golden streams of the released generators, invariants, metrics, errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import clbench
from clbench import make_benchmark
from clbench.data.repetition import (
    class_chances,
    comes_again,
    first_occurrence,
    recurring,
    sampled_table,
    slot_table,
)
from clbench.errors import ClbenchError
from clbench.reports.leaderboard.evidence import contradictions
from clbench.results.curve import Curve
from clbench.results.metrics import accumulation, missing_class_accuracy, seen_class_accuracy
from clbench.results.metrics.repetition import by_last_visit
from clbench.testing import check_benchmark
from clbench.types import Benchmark


def labels(classes: int, each: int) -> Any:
    return np.repeat(np.arange(classes), each)


# --- slots ---

SLOTS = [
    ((5, 2, 10, 12, 123), "40 61 78 92 35", [24] * 5),
    ((6, 3, 4, 12, 0), "313 321 023 032 102 021", [7, 7, 7, 7, 8, 8]),
    ((4, 4, 4, 10, 1), "1320 1302 2301 0213", [8] * 4),
    ((10, 3, 10, 50, 123), "092 029 913 078 418 431 756 682 657 354", [48] * 10),
]
"""(N, K, C, rows of a class, seed), the classes of each experience, its rows: of the authors' function."""


@pytest.mark.parametrize(("given", "classes", "sizes"), SLOTS)
def test_slots_of_the_authors(given: tuple[int, ...], classes: str, sizes: list[int]) -> None:
    N, K, C, each, seed = given
    y = labels(C, each)
    table, rows = slot_table(y, experiences=N, slots=K, seed=seed)
    assert ["".join(map(str, row)) for row in table.tolist()] == classes.split()
    assert [len(of) for of in rows] == sizes
    for row, of in zip(table.tolist(), rows, strict=True):
        assert set(y[of.numpy()].tolist()) == set(row)
    assert len(torch.cat(rows).unique()) == sum(sizes)  # disjoint


def test_uneven_slots_of_the_authors() -> None:
    table, rows = slot_table(labels(10, 60), experiences=9, slots=8, seed=123)
    assert table[0].tolist() == [4, 6, 1, 0, 6, 2, 6, 3]
    assert table[-1].tolist() == [3, 5, 4, 2, 8, 7, 6, 9]
    assert [len(of) for of in rows] == [62, 62, 62, 62, 62, 63, 62, 62, 63]
    assert sorted(np.bincount(table.ravel()).tolist()) == [7] * 8 + [8] * 2


@pytest.mark.parametrize("seed", range(4))
def test_one_slot_each_is_drawn_without_replacement(seed: int) -> None:
    table, _ = slot_table(labels(6, 4), experiences=6, slots=1, seed=seed)
    assert sorted(table.ravel().tolist()) == list(range(6))


# --- first times and later ones ---


@pytest.mark.parametrize(
    ("by", "value", "expected"),
    [
        ("geometric", 0.2, [0.240319, 0.192255, 0.153804, 0.123043, 0.098435, 0.078748, 0.062998, 0.050399]),
        ("zipf", 1.0, [0.367937, 0.183968, 0.122646, 0.091984]),
        ("zipf-reversed", 1.0, [0.045992, 0.052562]),
        ("poisson", 2.0, [0.135484, 0.270968, 0.270968, 0.180645]),
        ("uniform-alpha", 0.3, [1 / 3, 1 / 3, 1 / 3, 0]),
        ("uniform", 0.0, [1 / 8]),
    ],
)
def test_first_times(by: Any, value: float, expected: list[float]) -> None:
    found = first_occurrence(8, by, value)
    assert found[: len(expected)] == pytest.approx(expected, abs=1e-6)
    assert found.sum() == pytest.approx(1)


def test_expected_times_of_a_class() -> None:
    e = np.arange(8)
    times = (first_occurrence(8, "geometric", 0.2) * (1 + 0.2 * (7 - e))).sum()
    assert times == pytest.approx(1.92255044, abs=1e-8)


def test_later_times() -> None:
    def p(by: Any, value: float = 0.0) -> list[float]:
        return sorted(comes_again(4, by, value, (0.5, 0.1, 0.9), np.random.RandomState(0)).tolist())

    assert p("fixed", 0.2) == [0.2] * 4
    assert p("dual") == [0.1, 0.1, 0.9, 0.9]
    assert p("zipf", 1.0) == pytest.approx([1 / 4, 1 / 3, 1 / 2, 1])
    assert p("poisson", 1.0) == pytest.approx(sorted(math.exp(-1) / math.factorial(k) for k in range(4)))
    assert all(0 <= value < 1 for value in p("random"))


def test_samples_of_the_authors() -> None:
    y, given = (
        labels(4, 20),
        {"experiences": 6, "examples": 10, "first": "geometric", "first_value": 0.5, "seed": 0},
    )
    never, rows = sampled_table(y, again_value=0.0, **given)  # type: ignore[arg-type]
    assert never.T.tolist() == [[0, 0, 10, 0], [3, 4, 0, 3]]
    assert [len(of) for of in rows] == [10, 10]
    always, rows = sampled_table(y, again_value=1.0, **given)  # type: ignore[arg-type]
    assert (always > 0).astype(int).tolist() == [
        [0, 1, 1, 1, 1, 1],
        [0, 1, 1, 1, 1, 1],
        [1] * 6,
        [0, 1, 1, 1, 1, 1],
    ]
    assert always[:, 1].tolist() == [2, 3, 3, 2]
    assert all(len(of.unique()) == 10 for of in rows)


def test_a_small_class_gives_what_it_has() -> None:
    table, rows = sampled_table(
        labels(3, 4), experiences=4, examples=9, first="uniform", again_value=1.0, seed=2
    )
    assert [len(of) for of in rows] == [4, 8, 9, 9]
    assert (table > 0).argmax(1).tolist() == [0, 2, 1]
    built = make_benchmark("cir-sampling", length=6, examples=400, first="uniform", again_value=1.0)
    assert any("fewer than 400 examples" in told for told in built.found)


# --- long streams ---


@pytest.mark.parametrize(
    ("e", "ends", "entropy"),
    [
        (1, (0.1290, 0.0710), 0.9925),
        (2, (0.161, 0.0487), 0.9716),
        (4, (0.2294, 0.021), 0.903),
        (0, (0.1, 0.1), 1),
    ],
)
def test_chances_of_classes(e: float, ends: tuple[float, float], entropy: float) -> None:
    p = class_chances(10, e, 0.05)
    assert (p[0], p[-1]) == pytest.approx(ends, abs=5e-5)
    assert -(p * np.log(p)).sum() / np.log(10) == pytest.approx(entropy, abs=5e-5)


def test_a_draw_has_different_classes_and_each_comes_as_often_as_expected() -> None:
    table = recurring(10, experiences=500, each=2, seed=0)
    assert (table[:, 0] != table[:, 1]).all()
    assert np.abs(np.bincount(table.ravel()) - 100).max() < 40  # 4 standard deviations
    away = 1 - (table == 3).any(1)
    assert np.lib.stride_tricks.sliding_window_view(away, 5).all(1).mean() == pytest.approx(0.8**5, abs=0.12)


def test_reduction_makes_a_class_that_came_rarer() -> None:
    plain, rarer = (recurring(10, experiences=400, each=2, reduction=r, seed=1) for r in (1.0, 10.0))
    again = [np.mean([len(set(a) & set(b)) for a, b in zip(t[1:], t, strict=False)]) for t in (plain, rarer)]
    assert again[1] < 0.5 * again[0]


def test_plans() -> None:
    def drawn(plan: Any, share: float = 0.0) -> Any:
        return recurring(6, experiences=60, each=2, plan=plan, share=share, seed=0)

    assert drawn("cycle")[:15].tolist() == drawn("cycle")[15:30].tolist()
    assert len(np.unique(np.sort(drawn("cycle"), 1), axis=0)) == 15
    assert len(np.unique(np.sort(drawn("restricted", 0.2), 1), axis=0)) == 3
    assert (drawn("periods")[:30].max(), drawn("periods")[30:].min()) == (2, 3)
    assert (drawn("half")[:31].max(), drawn("half")[31:].max()) == (5, 2)
    mixed = drawn("cycle", 0.5)
    assert (mixed[:, 0] != mixed[:, 1]).all()
    assert (mixed != drawn("cycle")).any()


# --- benchmarks ---


@pytest.mark.parametrize("name", ["cir-slots", "cir-sampling", "scole"])
def test_a_benchmark_of_digits_keeps_every_rule(name: str) -> None:
    spec = {"experiences": 12} if name == "scole" else {}
    assert not [result for result in check_benchmark(name, **spec) if result.status == "failed"]
    built = make_benchmark(name, **spec)
    assert [exp.tests for exp in built.train] == [(0,)] * len(built.train)
    assert built.test[0].classes == tuple(range(10))


def test_as_many_slots_as_classes_is_class_incremental_and_all_of_them_domain_incremental() -> None:
    once = make_benchmark("cir-slots", experiences=5, slots=2)
    assert sorted(c for exp in once.train for c in exp.classes) == list(range(10))
    assert sum(map(len, once.train)) == 1442
    every = make_benchmark("cir-slots", experiences=3, slots=10)
    assert all(exp.classes == tuple(range(10)) for exp in every.train)


def test_what_is_left_out_is_told() -> None:
    assert "The stream has 1,431 of the 1,442 training examples." in make_benchmark("cir-slots").found
    assert any("have no class" in told for told in make_benchmark("cir-sampling", again_value=0.0).found)


def test_held_out_examples_are_not_trained_on() -> None:
    built = make_benchmark("scole", experiences=40, valid=0.1)
    assert built.valid is not None
    used = torch.cat([exp.data.parts[0][1] for exp in built.train]).unique()
    assert not torch.isin(built.valid[0].data.parts[0][1], used).any()


def test_texts_come_back_too() -> None:
    built = make_benchmark("scole", data="banking77", experiences=3, classes_each=5, train_per_class=2)
    assert built.texts
    assert [len(exp) for exp in built.train] == [10] * 3


@pytest.mark.parametrize(
    ("name", "spec", "said"),
    [
        ("cir-slots", {"slots": 11}, "slots may be 1 to 10"),
        ("cir-slots", {"experiences": 3, "slots": 3}, "slots may be 4 to 10. Or raise experiences to 4"),
        ("cir-slots", {"experiences": 400, "slots": 5}, "lower experiences or slots"),
        ("cir-sampling", {"first_value": 1.5}, "first_value lies above 0 and is 1 at most; 1.5"),
        ("cir-sampling", {"again_value": 1.5}, r"probabilities lie in \[0, 1\]; 1.5"),
        ("cir-sampling", {"examples": 3, "again_value": 1.0}, "raise examples to 10"),
        ("cir-sampling", {"first": "geometrical"}, "geometric"),
        ("scole", {"classes_each": 11}, "11 different classes of 10"),
        ("scole", {"classes_each": 6, "plan": "half"}, "6 different classes of 5"),
        ("scole", {"entropy": 1.0, "factor": 0.2}, "factor lies below 1/9"),
        ("scole", {"entropy": 1.0, "plan": "cycle"}, "leave out entropy and reduction"),
        ("scole", {"data": "digit"}, "Did you mean 'digits'"),
    ],
)
def test_what_cannot_be_is_refused(name: str, spec: dict[str, Any], said: str) -> None:
    with pytest.raises(ClbenchError, match=said):
        make_benchmark(name, **spec)


# --- metrics ---


def curve(right: list[list[int]], present: list[list[int]]) -> Curve:
    """Of classes with ten test examples each, all in one stream."""
    found = Curve()
    for i, row in enumerate(right):
        found.append(
            step=i + 1,
            examples=i + 1,
            experience=i,
            evaluated=0,
            correct=sum(row),
            total=10 * len(row),
            loss=0.0,
            full=True,
        )
        found.append_classes(row, [10] * len(row), [c in present[i] for c in range(len(row))])
    return found


def test_metrics_by_hand() -> None:
    of = curve([[10, 0, 0], [5, 10, 0], [8, 4, 0]], [[0], [1], [0]])
    assert seen_class_accuracy(of) == pytest.approx((1 + 0.75 + 0.6) / 3)
    assert missing_class_accuracy(of) == pytest.approx((0.5 + 0.4) / 2)
    assert accumulation(of) == pytest.approx(0.4 - 1 / 3)
    accuracy, counts = by_last_visit(of, most=2)
    assert counts.tolist() == [3, 2, 0]
    assert accuracy[:2] == pytest.approx([(1 + 1 + 0.8) / 3, (0.5 + 0.4) / 2])


def test_presence_is_kept_in_files_and_cut_with_the_curve(tmp_path: Any) -> None:
    of = curve([[10, 0], [5, 10]], [[0], [1]])
    of.save(tmp_path / "curve.npz")
    assert Curve.load(tmp_path / "curve.npz") == of
    assert of.class_present.tolist() == [[True, False], [False, True]]
    assert of.upto(1).class_present.tolist() == [[True, False]]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> clbench.Record:
    out = tmp_path_factory.mktemp("runs")
    return clbench.run("scole", "finetune", seed=0, out=out, experiences=60, lr=0.05, hidden=[32])


def test_knowledge_accumulates(record: clbench.Record) -> None:
    value = record.metrics["accumulation"]
    assert value is not None
    assert value > 0.2
    assert record.metrics["missing_class_accuracy"] < record.metrics["seen_class_accuracy"]


def test_a_run_knows_which_classes_were_there(record: clbench.Record) -> None:
    there = record.curve.class_present[-60:]
    assert [tuple(np.flatnonzero(row)) for row in there] == [exp.classes for exp in built(60).train]


def test_a_record_does_not_contradict_itself(record: clbench.Record, tmp_path: Any) -> None:
    assert not list(contradictions(record, record.curve))
    at_once = clbench.run(
        "scole", "offline", seed=0, out=tmp_path, experiences=8, train_per_class=3, hidden=[4]
    )
    assert not list(contradictions(at_once, at_once.curve))
    assert at_once.curve.class_present[-1].sum() == len({c for e in built(8).train for c in e.classes})


def built(experiences: int) -> Benchmark:
    return make_benchmark("scole", experiences=experiences)


def test_other_streams_have_no_such_table(tmp_path: Any) -> None:
    other = clbench.run("split-digits", "finetune", seed=0, out=tmp_path, iterations=1, hidden=[4])
    assert not len(other.curve.class_present)
    assert seen_class_accuracy(other.curve) is None
