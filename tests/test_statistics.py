"""How results are compared: intervals that cover, pairs, Holm's correction, ranks with ties."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clbench.results.statistics import (
    average_ranks,
    best,
    compare,
    groups,
    holm,
    mean_and_half,
    prediction_half,
    ranks,
    t_interval,
    told_apart,
)


def test_an_interval_by_hand() -> None:
    """0.8, 0.9, 1.0: s = 0.1, t(0.975, 2) = 4.302653."""
    interval = t_interval([0.8, 0.9, 1.0])
    assert interval.mean == pytest.approx(0.9)
    assert interval.half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)


def test_intervals_of_arrays_are_taken_over_the_first_axis() -> None:
    mean, half = mean_and_half([[0.8, 0.5], [0.9, 0.5], [1.0, 0.5]])
    assert mean == pytest.approx([0.9, 0.5])
    assert half == pytest.approx([4.302653 * 0.1 / 3**0.5, 0.0])


@pytest.mark.parametrize("values", [[0.5], [0.4, 0.6]])
def test_too_few_values_have_no_interval(values: list[float]) -> None:
    assert math.isnan(t_interval(values).low)
    assert math.isnan(prediction_half(values, 5))
    assert mean_and_half(values)[1] is None


def test_no_values_have_no_mean() -> None:
    with pytest.raises(ValueError, match="at least one"):
        t_interval([])


def test_intervals_cover() -> None:
    """Of 2,000 samples of five, 95 % of the intervals hold the true mean (± 1.5 %: three standard errors)."""
    rng = np.random.default_rng(0)
    samples = rng.normal(0.7, 0.02, (2000, 5))
    held = sum(i.low <= 0.7 <= i.high for i in (t_interval(list(row)) for row in samples))
    assert held / 2000 == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("m", [1, 5])
def test_predictions_cover(m: int) -> None:
    """The mean of m further values lies within the prediction interval 95 % of the time."""
    rng = np.random.default_rng(1)
    recorded, further = rng.normal(0.7, 0.02, (2000, 5)), rng.normal(0.7, 0.02, (2000, m))
    inside = [
        abs(a.mean() - b.mean()) <= prediction_half(list(a), m)
        for a, b in zip(recorded, further, strict=True)
    ]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_pairs_find_what_means_hide() -> None:
    """Seeds differ by ten points, the strategies by one on each seed: only pairing sees it."""
    a = {seed: 0.5 + 0.1 * seed for seed in range(5)}
    b = {seed: value + 0.01 + 0.001 * (seed % 2) for seed, value in a.items()}
    compared = compare(b, a)
    assert compared.difference.mean == pytest.approx(0.0104)
    assert compared.p < 1e-4
    assert t_interval(list(a.values())).high > t_interval(list(b.values())).low


def test_seeds_that_only_one_has_are_left_out() -> None:
    assert compare({0: 0.5, 1: 0.6, 7: 0.0}, {0: 0.4, 1: 0.4, 9: 1.0}).difference.n == 2


def test_equal_runs_do_not_differ() -> None:
    same = dict.fromkeys(range(5), 0.197)
    assert compare(same, dict(same)).p == 1.0
    assert compare(same, {**same, 4: 0.197 + 1e-16}).p == 1.0  # a sum in another order


def test_the_same_difference_on_every_seed_is_certain() -> None:
    a = {seed: 0.5 + 0.01 * seed for seed in range(5)}
    assert compare(a, {seed: value - 0.01 for seed, value in a.items()}).p == 0.0


def test_many_pairs_take_the_signed_rank_test() -> None:
    a = {seed: float(seed) for seed in range(10)}
    compared = compare({seed: value + 1 + seed for seed, value in a.items()}, a)
    assert compared.test == "Wilcoxon"
    assert compared.p == pytest.approx(2 / 2**10)


def test_the_test_is_calibrated() -> None:
    """Without a difference, p < 0.05 in 5 % of 2,000 comparisons of five pairs."""
    rng = np.random.default_rng(2)
    drawn = rng.normal(0, 1, (2000, 2, 5))
    low = [compare(dict(enumerate(a)), dict(enumerate(b))).p < 0.05 for a, b in drawn]
    assert np.mean(low) == pytest.approx(0.05, abs=0.015)


def test_holm_by_hand() -> None:
    """0.01 · 4, 0.02 · 3, 0.03 · 2 raised to 0.06, 0.9."""
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm([]) == []


def rival(mean: float, seeds: int = 5) -> dict[int, float]:
    noise = np.random.default_rng(round(1000 * mean)).normal(0, 0.004, seeds)
    return {seed: mean + float(e) for seed, e in enumerate(noise)}


def test_ranks_count_those_that_are_better_with_certainty() -> None:
    assert ranks([rival(0.5), rival(0.9), rival(0.7)], higher_is_better=True) == [(3, 3), (1, 1), (2, 2)]
    assert ranks([rival(0.5), rival(0.9), rival(0.7)], higher_is_better=False) == [(1, 1), (3, 3), (2, 2)]


def test_those_that_cannot_be_told_apart_share_a_rank() -> None:
    assert ranks([rival(0.9), rival(0.901), rival(0.5)], higher_is_better=True) == [(1, 2), (1, 2), (3, 3)]


def test_few_seeds_and_noise_show_as_a_range_of_places() -> None:
    """The middle one is told from neither, the ends from each other."""
    first, last = rival(0.9), rival(0.5)
    middle = {seed: 0.7 + 0.3 * (-1) ** seed for seed in range(5)}
    found = ranks([first, middle, last], higher_is_better=True)
    assert [str(rank) for rank in found] == ["1–2", "1–3", "2–3"]
    assert str(ranks([first], higher_is_better=True)[0]) == "1"


def test_four_seeds_give_no_rank_and_are_no_rivals() -> None:
    assert ranks([rival(0.5), rival(0.9, seeds=4), rival(0.7)], higher_is_better=True) == [
        (2, 2),
        None,
        (1, 1),
    ]


def test_noise_does_not_earn_a_mark() -> None:
    """The second is worse than the first with certainty; of the third, which is worse yet, nothing is certain."""
    top = rival(0.8)
    second = {seed: value - 0.28 - 0.02 * (-1) ** seed for seed, value in top.items()}
    third = {seed: 0.36 + 0.4 * (-1) ** seed for seed in range(5)}
    found = ranks([top, second, third], higher_is_better=True)
    assert [rank.best for rank in found if rank] == [1, 2, 1]
    assert best([top, second, third], higher_is_better=True) == {0}


def test_the_best_are_those_that_may_be_first() -> None:
    assert best([rival(0.9), rival(0.901), rival(0.5)], higher_is_better=True) == {0, 1}
    assert best([rival(0.9), rival(0.901), rival(0.5)], higher_is_better=False) == {2}
    assert best([rival(0.9), rival(0.5, seeds=4)], higher_is_better=True) == set()


def test_average_ranks_by_hand() -> None:
    first, second, third = {0: 0.9, 1: 0.8}, {0: 0.7, 1: 0.8}, {0: 0.1, 1: 0.2}
    assert average_ranks([first, second, third], higher_is_better=True) == [1.25, 1.75, 3.0]
    assert average_ranks([first, second, third], higher_is_better=False) == [2.75, 2.25, 1.0]


def test_average_ranks_need_a_shared_seed() -> None:
    with pytest.raises(ValueError, match="share no seed"):
        average_ranks([{0: 0.1}, {1: 0.2}], higher_is_better=True)


def test_who_is_better_with_certainty() -> None:
    assert told_apart([rival(0.5), rival(0.9), rival(0.901)], higher_is_better=True) == [(1, 0), (2, 0)]
    assert told_apart([rival(0.5), rival(0.9, seeds=4)], higher_is_better=True) == []


@pytest.mark.parametrize(
    ("apart", "bars"),
    [
        ([], [(0, 3)]),
        ([(0, 3)], [(0, 2), (1, 3)]),
        ([(0, 2), (0, 3), (1, 3)], [(0, 1), (1, 2), (2, 3)]),
        ([(0, 1), (0, 2), (0, 3)], [(1, 3)]),
        ([(a, b) for a in range(4) for b in range(a + 1, 4)], []),
    ],
    ids=["none", "ends", "neighbours only", "a winner", "all"],
)
def test_bars_join_those_that_are_not_told_apart(
    apart: list[tuple[int, int]], bars: list[tuple[int, int]]
) -> None:
    assert groups([0, 1, 2, 3], apart) == bars
