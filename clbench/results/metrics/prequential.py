"""Metrics of what was predicted before it was learned (test, then train), in the order of the stream.

Notation: ŷ_i and y_i the predicted and the true class of row i, c_i = [ŷ_i = y_i]; n rows. `results.anytime` has the
the same for any window, any fading factor and at any row.
"""

from __future__ import annotations

import numpy as np

from clbench.results.anytime import agreement, fading, right
from clbench.results.curve import Curve, Ints
from clbench.results.metrics.core import UndefinedError, metric

SINCE = 1
"""The schema of records from which on they have these metrics."""

GAMA = "Gama, Sebastião, Rodrigues, Machine Learning 2013"
COHEN = "Cohen, 1960; Bifet & Frank, DS 2010"
TEMPORAL = "Žliobaitė, Bifet, Read, Pfahringer, Holmes, Machine Learning 2015"
MAJORITY = "Bifet, De Francisci Morales, Read, Holmes, Pfahringer, KDD 2015"

WINDOW = 1000
"""Rows of the window that records have."""
FADING = 0.999
"""The fading factor that records have: of effective length 1000."""


@metric(
    "prequential_accuracy", title="prequential acc.", higher_is_better=True, reference=GAMA, default=False
)
def prequential_accuracy(curve: Curve) -> float | None:
    """Share of the stream's rows that were predicted right before they were learned.

    (1/n) Σ_i c_i
    """
    return float(np.mean(_rows(curve)[0] == curve.label))


@metric("prequential_kappa", title="κ", higher_is_better=True, reference=COHEN, default=False)
def prequential_kappa(curve: Curve) -> float | None:
    """Prequential accuracy beyond that of guesses with the same shares of classes.

    (p₀ − p_e) / (1 − p_e),   p_e = Σ_c (share predicted c) (share true c)
    """
    return agreement(*_rows(curve)).kappa


@metric("prequential_kappa_temporal", title="κ_T", higher_is_better=True, reference=TEMPORAL, default=False)
def prequential_kappa_temporal(curve: Curve) -> float | None:
    """Prequential accuracy beyond that of the previous label; at 0 or below, nothing is learned beyond persistence.

    (p₀ − p_nc) / (1 − p_nc),   p_nc = (1/n) Σ_i [ y_i = y_{i−1} ], y_0 = class 0
    """
    return agreement(*_rows(curve)).kappa_temporal


@metric("prequential_kappa_majority", title="κ_M", higher_is_better=True, reference=MAJORITY, default=False)
def prequential_kappa_majority(curve: Curve) -> float | None:
    """Prequential accuracy beyond that of the class that was the most frequent one so far.

    (p₀ − p_m) / (1 − p_m),   p_m = (1/n) Σ_i [ y_i = most frequent of y_1 … y_i ]
    """
    return agreement(*_rows(curve)).kappa_majority


@metric("prequential_window", title="last 1000", higher_is_better=True, reference=GAMA, default=False)
def prequential_window(curve: Curve) -> float | None:
    """Share of the last 1000 rows that were predicted right before they were learned.

    (1/w) Σ_{i>n−w} c_i,   w = min(1000, n)
    """
    _rows(curve)
    return float(right(curve)[-WINDOW:].mean())


@metric("prequential_fading", title="fading .999", higher_is_better=True, reference=GAMA, default=False)
def prequential_fading(curve: Curve) -> float | None:
    """Prequential accuracy at the end with fading factor 0.999.

    S_n / B_n,   S_n = α S_{n−1} + c_n,   B_n = α B_{n−1} + 1,   α = 0.999
    """
    _rows(curve)
    return float(fading(right(curve), FADING)[-1])


def _rows(curve: Curve) -> tuple[Ints, Ints]:
    """Return what was predicted of every row of a finished run, and the labels."""
    if not len(curve.predicted) or not curve.finished:
        raise UndefinedError
    return curve.predicted, curve.label
