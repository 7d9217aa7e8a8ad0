"""Metrics of streams in which classes come back, on request: what is known of classes that are away."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clbench.results.curve import Curve, Floats, Ints, divide
from clbench.results.metrics.core import UndefinedError, full_matrix, mean, metric, weighted_mean

CIR = "Hemati et al., CoLLAs 2023, arXiv 2301.11396"
SCOLE = "after Lesort et al., CoLLAs 2023, arXiv 2207.04543, who show the curve"
PART = 10
"""Of a stream: its first tenth is compared with its last."""


@metric("seen_class_accuracy", title="seen", higher_is_better=True, reference=CIR, default=False)
def seen_class_accuracy(curve: Curve) -> float | None:
    """Accuracy of the classes that have come so far, averaged over classes, then over experience ends.

        (1/N) Σ_i mean_{c ∈ S_i} acc_c(i),   S_i = classes of experiences 1 … i

    Also called ASCA.
    """
    accuracy, present = _by_class(curve)
    return mean(np.nanmean(np.where(np.logical_or.accumulate(present), accuracy, np.nan), axis=1))


@metric("missing_class_accuracy", title="missing", higher_is_better=True, reference=CIR, default=False)
def missing_class_accuracy(curve: Curve) -> float | None:
    """Accuracy of the classes that have come and are not in the last experience, averaged over classes, then over ends.

        mean_i mean_{c ∈ S_i \\ P_i} acc_c(i),   P_i = classes of experience i; ends without such classes are left out

    Also called AMCA.
    """
    accuracy, present = _by_class(curve)
    away = np.logical_or.accumulate(present) & ~present
    some = away.any(1)
    return mean(np.nanmean(np.where(away, accuracy, np.nan)[some], axis=1))


@metric("accumulation", title="accumulated", higher_is_better=True, reference=SCOLE, default=False)
def accumulation(curve: Curve) -> float | None:
    """Accuracy on all test examples in the last tenth of the experience ends minus that in the first tenth.

        mean_{i > N − m} A_i − mean_{i ≤ m} A_i,   m = ⌈N / 10⌉,   A_i = Σ_j n[j] R[i,j] / Σ_j n[j]

    Above 0, knowledge accumulates, though the last classes are ahead at every end. Needs two experiences, and all test
    streams evaluated at every end.
    """
    R, _, n = full_matrix(curve)
    if len(R) < 2 or np.isnan(R).any():
        raise UndefinedError
    m = -(-len(R) // PART)
    over_all = np.array([weighted_mean(row, n) for row in R])
    return mean(over_all[-m:]) - mean(over_all[:m])


def by_last_visit(curve: Curve, most: int = 50) -> tuple[Floats, Ints]:
    """Return the accuracy of classes that came last k experiences ago, k = 0 … most, and how many such there are.

    Averaged over classes and experience ends; NaN where there is none. How fast knowledge of a class that is away fades
    shows here; accuracy against time hides it. For streams as of Lesort et al., arXiv:2207.04543.
    """
    accuracy, present = _by_class(curve)
    ends = np.arange(len(present))[:, None]
    last = np.maximum.accumulate(np.where(present, ends, -1))
    gap = np.where(last >= 0, ends - last, most + 1)
    right = [accuracy[gap == k] for k in range(most + 1)]
    counts = np.array([len(of) for of in right])
    return divide(np.array([of.sum() for of in right]), counts), counts


def _by_class(curve: Curve) -> tuple[Floats, NDArray[np.bool_]]:
    """(N, C) accuracy of each class at each experience's end, and whether the experience had it."""
    full_matrix(curve)
    if not len(curve.class_present):
        raise UndefinedError
    ends = np.unique(curve.experience[curve.full]) >= 0  # not before training
    return divide(curve.class_correct, curve.class_total)[ends], curve.class_present[ends]
