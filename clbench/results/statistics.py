"""How results are compared: intervals, paired differences, correction for many comparisons, ranks with ties.

Runs of one seed share stream, order and initial weights, so strategies are compared seed by seed. With five seeds, a
signed-rank test cannot reach p < 0.05 (its least two-sided p is 1/16), so the paired t-test decides, whose assumption
(differences about normal) five values cannot refute; from ten pairs on, Wilcoxon's test does. No torch.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

INTERVAL_FROM = 3
"""Values that an interval needs: that of two is nine standard deviations wide to either side, and tells nothing."""
TOO_FEW = "too few"
"""What stands in place of an interval."""

RANKED_FROM = 5
"""Seeds that a rank needs."""

SIGNED_RANK_FROM = 10
"""Pairs from which on Wilcoxon's signed-rank test is used."""

EXACT_TO, ALL_SIGNS = 50, 13
"""Pairs up to which that test is exact, and up to which it is so with ties or zeros, by all signs that there can be."""

LEVEL = 0.05
"""The level of a family of comparisons."""

Floats = NDArray[np.float64]

ROUNDING = 1e-12
"""Differences that are less are of rounding."""


@dataclass(frozen=True)
class Interval:
    """A mean over n values and its 95 % interval, NaN where they are fewer than `INTERVAL_FROM`."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half its width."""
        return (self.high - self.low) / 2


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean ± t(n−1) s / √n.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("An interval needs at least one value.")
    mean, half = mean_and_half(values, level)
    width = math.nan if half is None else float(half)
    return Interval(float(mean), float(mean) - width, float(mean) + width, len(values))


def mean_and_half(
    values: ArrayLike, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Mean over the first axis (n, …) and half the width of its interval, t(n−1) s / √n; None for too few."""
    x = np.asarray(values, dtype=np.float64)
    mean: NDArray[np.float64] = x.mean(axis=0)
    if len(x) < INTERVAL_FROM:
        return mean, None
    return mean, _t(level, len(x)) * x.std(axis=0, ddof=1) / math.sqrt(len(x))


def prediction_half(values: Sequence[float], m: int, level: float = 0.95) -> float:
    """Return how far the mean of m further runs may lie from that of these: t(n−1) s √(1/n + 1/m); NaN for too few."""
    n = len(values)
    if n < INTERVAL_FROM:
        return math.nan
    return _t(level, n) * float(np.std(values, ddof=1)) * math.sqrt(1 / n + 1 / m)


@functools.lru_cache(maxsize=4096)
def _t(level: float, n: int) -> float:
    from scipy import special  # not scipy.stats: half the memory of a report, and a second

    return float(special.stdtrit(n - 1, (1 + level) / 2))


@dataclass(frozen=True)
class Comparison:
    """Two strategies on the seeds both have.

    Attributes:
        difference: of the first minus the second, paired by seed.
        p: two-sided; 1 where all differences are 0, and where there are fewer than two pairs.
        test: "paired t" or "Wilcoxon".
    """

    difference: Interval
    p: float
    test: str


def compare(a: Mapping[int, float], b: Mapping[int, float]) -> Comparison:
    """Compare by the seeds that both have.

    Args:
        a, b: seed → value.

    Raises:
        ValueError: they share no seed.
    """
    seeds = sorted(a.keys() & b.keys())
    differences = [a[seed] - b[seed] for seed in seeds]
    test = "Wilcoxon" if len(seeds) >= SIGNED_RANK_FROM else "paired t"
    return Comparison(t_interval(differences), float(_p_values(np.array([differences]))[0]), test)


def _p_values(differences: Floats) -> Floats:
    """(P,) of the differences (P, n) of P pairs; all at once, as tables of hundreds of rows have thousands of pairs."""
    from scipy import special

    n, p = differences.shape[1], np.ones(len(differences))
    differ = (np.abs(differences).max(axis=1) >= ROUNDING) & (n > 1)
    if n >= SIGNED_RANK_FROM:
        p[differ] = _signed_rank(differences[differ])
        return p
    steady = differ & (np.ptp(differences, axis=1) < ROUNDING)  # the same every time; t would be infinite
    p[steady] = 0.0
    some = differences[differ & ~steady]
    t = some.mean(axis=1) / np.sqrt(some.var(axis=1, ddof=min(1, n - 1)) / n)
    p[differ & ~steady] = 2 * special.stdtr(n - 1, -np.abs(t))
    return p


def _signed_rank(differences: Floats) -> Floats:
    """(P,) p of Wilcoxon's signed-rank test, without zeros: exact, or by the normal distribution where there are many.

    Up to `EXACT_TO` differences are many if there are ties or zeros among them and they are more than `ALL_SIGNS`.
    """
    from scipy import special

    n, there = differences.shape[1], differences != 0
    less, ties = _placed(np.abs(differences))
    zeros = n - there.sum(axis=1)
    places = np.where(there, less + (ties + 1) / 2 - zeros[:, None], 0.0)
    plus, p = (places * (differences > 0)).sum(axis=1), np.empty(len(differences))
    regular = (ties == 1).all(axis=1) & (zeros == 0)
    if n <= EXACT_TO:
        rank_sum = plus[regular].astype(np.int64)
        p[regular] = 2 * _rank_sums(n)[np.minimum(rank_sum, n * (n + 1) // 2 - rank_sum)]
    if n <= ALL_SIGNS:
        signs = np.array(list(itertools.product((0.0, 1.0), repeat=n)))  # (2ⁿ, n)
        for i in np.flatnonzero(~regular):
            sums = signs @ places[i]  # of halves, so exact
            p[i] = 2 * min((sums <= plus[i]).mean(), (sums >= plus[i]).mean())
    else:
        rows = ~regular if n <= EXACT_TO else slice(None)
        count = (n - zeros[rows]).astype(np.float64)
        tied = np.where(there, ties**2 - 1, 0)[rows].sum(axis=1)  # t³ − t of every group of t
        spread = np.sqrt((count * (count + 1) * (2 * count + 1) - tied / 2) / 24)
        p[rows] = 2 * special.ndtr(-np.abs(plus[rows] - count * (count + 1) / 4) / spread)
    return np.minimum(p, 1.0)


def _placed(values: Floats) -> tuple[Floats, Floats]:
    """For each of (P, n) values, how many of its row are less, and how many equal to it, itself included."""
    pairs = list(zip(np.sort(values, axis=1), values, strict=True))
    less, up_to = (
        np.array([np.searchsorted(row, v, side) for row, v in pairs], np.float64).reshape(values.shape)
        for side in ("left", "right")
    )
    return less, up_to - less


@functools.lru_cache(maxsize=64)
def _rank_sums(n: int) -> Floats:
    """Return the distribution function of the sum of those of the ranks 1 to n that a coin chooses."""
    chances = np.ones(1)
    for k in range(1, n + 1):
        chances = np.pad(chances, (0, k)) / 2 + np.pad(chances, (k, 0)) / 2
    summed: Floats = np.cumsum(chances)
    return summed


def holm(p: ArrayLike) -> list[float]:
    """Holm's adjusted p-values, in the given order: no false claim at all with probability 1 − level.

    The k-th smallest (from 0) of n becomes max over those up to it of (n − k) p, at most 1.
    """
    given = np.asarray(p, dtype=np.float64)
    order, adjusted = np.argsort(given, kind="stable"), np.empty_like(given)
    adjusted[order] = np.maximum.accumulate(np.minimum(np.arange(len(given), 0, -1) * given[order], 1.0))
    found: list[float] = adjusted.tolist()
    return found


class Rank(NamedTuple):
    """The places that a rival may have with certainty: `best` to `worst`, 1 the first."""

    best: int
    worst: int

    def __str__(self) -> str:
        return f"{self.best}" if self.best == self.worst else f"{self.best}–{self.worst}"


def ranks(rivals: Sequence[Mapping[int, float]], higher_is_better: bool) -> list[Rank | None]:
    """Rank of each rival: from 1 + how many are better with certainty, to all but those that are worse with certainty.

    So rivals that cannot be told apart share places, and few seeds show as wide ranges. A rival with fewer than
    `RANKED_FROM` seeds has no rank and takes no part.

    Args:
        rivals: seed → value of each.
    """
    apart = told_apart(rivals, higher_is_better)
    better, worse = Counter(winner for winner, _ in apart), Counter(loser for _, loser in apart)
    rated = sum(len(values) >= RANKED_FROM for values in rivals)
    return [
        Rank(1 + worse[i], rated - better[i]) if len(values) >= RANKED_FROM else None
        for i, values in enumerate(rivals)
    ]


def best(rivals: Sequence[Mapping[int, float]], higher_is_better: bool) -> set[int]:
    """Return the best mean and those after it, down to the first than which another is better with certainty.

    What every table and page marks. One that varies much may have a rank from 1 on behind others that have none, since
    nothing is certain of it; that earns no mark. None where fewer than two have a rank.
    """
    rated = {i: rank for i, rank in enumerate(ranks(rivals, higher_is_better)) if rank is not None}
    sign = -1 if higher_is_better else 1
    order = sorted(rated, key=lambda i: sign * float(np.mean(list(rivals[i].values()))))
    first = set(itertools.takewhile(lambda i: rated[i].best == 1, order))
    return first if len(rated) > 1 else set()


def told_apart(rivals: Sequence[Mapping[int, float]], higher_is_better: bool) -> list[tuple[int, int]]:
    """Return the pairs (better, worse) of rivals that differ with statistical certainty: Holm over all pairs at 5 %.

    Pairs that share fewer than `RANKED_FROM` seeds are not compared.
    """
    by_seeds: dict[frozenset[int], list[int]] = {}
    for i, values in enumerate(rivals):
        by_seeds.setdefault(frozenset(values), []).append(i)
    pairs, means, p = [np.empty((0, 2), np.int64)], [np.empty(0)], [np.empty(0)]
    for (seeds, some), (others, more) in itertools.combinations_with_replacement(by_seeds.items(), 2):
        shared = sorted(seeds & others)
        if len(shared) < RANKED_FROM:
            continue
        one, other = (
            np.array([[rivals[i][seed] for seed in shared] for i in group]) for group in (some, more)
        )
        # Within a group, every pair once.
        first, second = (
            np.triu_indices(len(some), 1)
            if some is more
            else np.indices((len(some), len(more))).reshape(2, -1)
        )
        differences = one[first] - other[second]
        pairs.append(np.stack([np.array(some)[first], np.array(more)[second]], axis=1))
        means.append(differences.mean(axis=1))
        p.append(_p_values(differences))
    certain = np.array(holm(np.concatenate(p))) < LEVEL
    wins = (np.concatenate(means) > 0) == higher_is_better
    found = np.where(wins[:, None], np.concatenate(pairs), np.concatenate(pairs)[:, ::-1])[certain]
    return sorted((int(winner), int(loser)) for winner, loser in found)


def average_ranks(rivals: Sequence[Mapping[int, float]], higher_is_better: bool) -> list[float]:
    """Return the mean over the seeds that all share of each rival's place there, 1 the best; equal values share theirs.

    Raises:
        ValueError: there is no seed that all share.
    """
    seeds = sorted(set.intersection(*(set(values) for values in rivals)))
    if not seeds:
        raise ValueError("These rivals share no seed.")
    values = np.array([[rival[seed] for rival in rivals] for seed in seeds])  # (seeds, rivals)
    less, equal = _placed(-values if higher_is_better else values)
    return [float(place) for place in (less + (equal + 1) / 2).mean(axis=0)]


def groups(order: Sequence[int], apart: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the bars of a critical-difference plot: stretches (first, last) of an order in which no pair is told
    apart.

    Only stretches of two or more that lie in no longer one (Demšar, JMLR 7, 2006).
    """
    place = {rival: i for i, rival in enumerate(order)}
    before = [0] * len(order)  # of each, where a stretch that ends with it may begin
    for one, other in apart:
        first, last = sorted((place[one], place[other]))
        before[last] = max(before[last], first + 1)
    begins = list(itertools.accumulate(before, max))
    longest = {first: last for last, first in enumerate(begins)}
    return [(first, last) for first, last in longest.items() if last > first]
