"""The curriculum designer: scores of orders by hand, and the order that a benchmark gets."""

from __future__ import annotations

import numpy as np
import pytest

from clbench import make_benchmark
from clbench.data.curriculum import atypicality, distances, ranked
from clbench.errors import ConfigError
from clbench.results.curve import Curve
from clbench.results.metrics import curriculum_quality
from clbench.testing import check_benchmark

D = np.array([[0.0, 1, 2, 3], [1, 0, 2, 2], [2, 2, 0, 1], [3, 2, 1, 0]])


def test_scores_by_hand() -> None:
    assert atypicality(D) == pytest.approx([0.279, 0.221, 0.221, 0.279], abs=5e-4)
    orders, scores = ranked(D)
    assert (orders[0].tolist(), scores[0]) == ([0, 3, 2, 1], pytest.approx(3.0543, abs=5e-5))
    of = {tuple(order): score for order, score in zip(orders.tolist(), scores, strict=True)}
    assert min(of.values()) == pytest.approx(of[0, 1, 2, 3])
    assert of[0, 1, 2, 3] == pytest.approx(2.3876, abs=5e-5)
    assert len(of) == 24


@pytest.mark.parametrize("seed", range(3))
def test_scores_by_the_loop_of_the_definition(seed: int) -> None:
    L = seed + 3
    free = np.random.default_rng(seed).random((L, L))
    orders, scores = ranked(free)
    rows = free / free.sum(1, keepdims=True)
    v = rows.var(1) / rows.var(1).sum()
    for o, score in zip(orders[::7], scores[::7], strict=True):
        expected, covered, s = 1 - v[o[0]], 1, 0
        while covered < L:
            expected += 1 - rows[o[s], o[L - 1 - s]] + rows[o[s], o[s + 1]]
            covered, s = covered + 2, s + 1
        assert score == pytest.approx(expected)
    assert (np.diff(scores) <= 1e-9).all()
    assert ranked(7 * free)[1] == pytest.approx(scores)


def test_distances_are_of_means() -> None:
    x = np.array([[1.0, 0], [3, 0], [0, 2], [0, 4]])
    y, groups = [0, 1, 2, 2], [[0, 1], [2]]
    assert distances(x, y, groups) == pytest.approx(np.array([[0, 1], [1, 0]]))
    assert distances(x, y, groups, by="euclidean")[0, 1] == pytest.approx(13**0.5)


def test_a_benchmark_has_the_best_order_of_its_groups() -> None:
    plain, best = (
        make_benchmark("split-digits", class_order=order) for order in ("natural", "curriculum-designer")
    )
    assert {exp.classes for exp in plain.train} == {exp.classes for exp in best.train}
    assert "the curriculum-designer scores" in best.notes
    assert not [
        r for r in check_benchmark("split-digits", class_order="curriculum-designer") if r.status == "failed"
    ]


def test_too_many_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match="8 groups at most, and there are 10; take fewer experiences"):
        make_benchmark("split-digits", class_order="curriculum-designer", experiences=10)


def test_quality_of_an_order() -> None:
    assert curriculum_quality(Curve.from_matrix([[0.75, 0.0], [0.25, 0.75]])) == pytest.approx(
        0.8
    )  # a = f = 1/2
    assert curriculum_quality(Curve.from_matrix([[0.5, 0.0], [0.5, 0.5]])) == pytest.approx(
        1.0
    )  # nothing forgotten
