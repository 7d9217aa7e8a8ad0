"""How far predictions of a stream are right, row by row, and beyond what its labels alone reach. Imports no torch.

    sliding(right(record.curve), 1000)                  # anytime curves: also cumulative, tumbling, fading
    agreement(predicted, label, window=1000)            # accuracy and all three kappas, of the last 1000 rows

Notation: ŷ_i and y_i the predicted and the true class of row i, c_i = [ŷ_i = y_i]; N rows. Kappas are those of MOA
(Bifet et al., JMLR 2010), row for row.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from clbench.results.curve import Curve, Floats, Ints

AT_ONCE = 1 << 20
"""Cells of a table of counts that are looked at together."""


class Agreement(NamedTuple):
    """How far predictions are right, and beyond what three references reach; NaN where a reference is always right."""

    accuracy: float
    kappa: float
    kappa_temporal: float
    kappa_majority: float


def agreement(predicted: ArrayLike, label: ArrayLike, window: int | None = None) -> Agreement:
    """Accuracy p₀ and, for each reference p, (p₀ − p) / (1 − p), over all rows or the last `window` ones.

    κ      p = Σ_c (share predicted c) (share true c)
    κ_T    p = share of rows whose label is that of the row before; before the first one, it is class 0
    κ_M    p = share of rows whose label is the majority class up to and including that row, or of a window in the
           last `window` rows up to it; of equally many, the first class
    """
    guess, y = np.asarray(predicted, np.int64), np.asarray(label, np.int64)
    last = slice(-window if window is not None else None, None)
    accuracy = float(np.mean((guess == y)[last]))
    classes = int(max(guess.max(), y.max())) + 1
    shares = [np.bincount(rows[last], minlength=classes) / len(y[last]) for rows in (guess, y)]
    chances = (
        float(shares[0] @ shares[1]),
        float(np.mean(no_change(y)[last])),
        float(np.mean(majority(y, window)[last])),
    )
    kappas = [(accuracy - p) / (1 - p) if p < 1 else float("nan") for p in chances]
    return Agreement(accuracy, *kappas)


def no_change(label: Ints) -> Floats:
    """(N,) whether each label is that of the row before; before the first one, it is class 0."""
    same: Floats = (label == np.concatenate([[0], label[:-1]])).astype(np.float64)
    return same


def majority(label: Ints, window: int | None = None) -> Floats:
    """(N,) whether each label is the most frequent one of the rows up to its own, or of so many of the last ones."""
    n, classes = len(label), int(label.max(initial=0)) + 1
    hits = np.zeros(n)
    counts = np.zeros(classes, np.int64)
    step = max(1, AT_ONCE // classes)
    for start in range(0, n, step):
        rows = np.arange(start, min(start + step, n))
        change = np.zeros((len(rows), classes), np.int64)
        change[rows - start, label[rows]] = 1
        if window is not None:
            gone = rows - window
            there = gone >= 0
            np.subtract.at(change, (rows[there] - start, label[gone[there]]), 1)
        so_far = counts + change.cumsum(0)  # (rows, C)
        hits[rows] = so_far.argmax(1) == label[rows]
        counts = so_far[-1]
    return hits


# --- anytime curves, of right or wrong c (N,) ---


def right(curve: Curve) -> Floats:
    """(N,) 1 where a row was predicted right, else 0."""
    same: Floats = (curve.predicted == curve.label).astype(np.float64)
    return same


def cumulative(c: ArrayLike) -> Floats:
    """(N,) mean of all rows up to each: (1/n) Σ_{i≤n} c_i."""
    values = np.asarray(c, np.float64)
    means: Floats = values.cumsum() / np.arange(1, len(values) + 1)
    return means


def sliding(c: ArrayLike, window: int) -> Floats:
    """(N,) mean of the last min(window, n) rows up to each."""
    total = np.concatenate([[0.0], np.asarray(c, np.float64).cumsum()])
    end = np.arange(1, len(total))
    begin = np.maximum(end - window, 0)
    means: Floats = (total[end] - total[begin]) / (end - begin)
    return means


def tumbling(c: ArrayLike, window: int) -> Floats:
    """(⌊N / window⌋,) means of rows 1 … window, window + 1 … 2 window, …; rows left over are in none."""
    values = np.asarray(c, np.float64)
    means: Floats = values[: len(values) // window * window].reshape(-1, window).mean(1)
    return means


def fading(c: ArrayLike, factor: float) -> Floats:
    """(N,) S_n / B_n with S_n = α S_{n−1} + c_n and B_n = α B_{n−1} + 1, of effective length 1 / (1 − α)."""
    values = np.asarray(c, np.float64).tolist()
    sums, weights = (
        np.array([*itertools.accumulate(given, lambda past, now: factor * past + now)])
        for given in (values, [1.0] * len(values))
    )
    mean: Floats = sums / weights
    return mean
