"""Metrics of streams without boundaries, on request: what is exposed grows with the stream."""

from __future__ import annotations

import numpy as np

from clbench.results.curve import Curve, Floats
from clbench.results.metrics.core import UndefinedError, all_ticks, full_matrix, mean, metric
from clbench.results.metrics.matrix import class_forgetting
from clbench.results.metrics.ticks import area_under_curve

SINCE = 1
"""The schema of records from which on they have these metrics."""

SI_BLURRY = "Moon et al., ICCV 2023, arXiv 2308.09303"


@metric("a_auc", title="A_AUC", higher_is_better=True, reference=SI_BLURRY, default=False)
def a_auc(curve: Curve) -> float | None:
    """Accuracy over the classes exposed so far, averaged over every 1000th stream example.

        A_AUC = mean_m Σ_j correct_j(t_m) / Σ_j total_j(t_m),   t_m = first tick after > 1000 m examples

    As in the authors' loop: an evaluation is due when the count exceeds the next multiple. With "reaches" for "exceeds"
    it is `a_auc_1000`, and another number where a multiple of 1000 is one of the batch size.
    """
    return area_under_curve(all_ticks(curve), every=1000, exceed=True)


@metric("a_avg", title="A_avg", higher_is_better=True, reference=SI_BLURRY, default=False)
def a_avg(curve: Curve) -> float | None:
    """Accuracy over the exposed classes' test examples, averaged over the ends of the stream's segments.

        A_avg = (1/T) Σ_i A_i,   A_i = Σ_c correct_c(i) / Σ_c total_c(i), c exposed by then

    Needs counts per class.
    """
    return mean(_exposed_accuracies(curve))


@metric("a_last", title="A_last", higher_is_better=True, reference=SI_BLURRY, default=False)
def a_last(curve: Curve) -> float | None:
    """Accuracy at the end over the test examples of all exposed classes.

    A_last = Σ_c correct_c(T) / Σ_c total_c(T)
    """
    return float(_exposed_accuracies(curve)[-1])


@metric("f_last", title="F_last (exposed)", higher_is_better=False, reference=SI_BLURRY, default=False)
def f_last(curve: Curve) -> float | None:
    """Best accuracy of a class at an earlier segment's end minus its last, over the classes once recognised.

        F_last = mean_{c : m_c > 0} (m_c − acc_c(T)),   m_c = max_{i<T} acc_c(i)

    `class_forgetting` by the name that it has on blurry streams.
    """
    return class_forgetting(curve)


def _exposed_accuracies(curve: Curve) -> Floats:
    """(T,) accuracy over the exposed classes at each end."""
    full_matrix(curve)
    if not len(curve.class_total):
        raise UndefinedError
    ends = np.unique(curve.experience[curve.full]) >= 0  # not before training
    correct, total = curve.class_correct[ends].sum(1), curve.class_total[ends].sum(1)
    accuracies: Floats = correct / total
    return accuracies
