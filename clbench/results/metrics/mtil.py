"""Metrics of whole data sets in a row, on request: what later sets keep before they are trained."""

from __future__ import annotations

import numpy as np

from clbench.results.curve import Curve
from clbench.results.metrics.core import mean, metric, task_matrix

MTIL = "Zheng et al., ICCV 2023, arXiv 2303.06628"


@metric("mtil_transfer", title="Transfer", higher_is_better=True, reference=MTIL, default=False)
def mtil_transfer(curve: Curve) -> float | None:
    """Accuracy on a set before it is trained, averaged over the experience ends before that, then over sets.

        (1/(T−1)) Σ_{i≥2} (1/(i−1)) Σ_{j<i} R[j,i]

    Zero-shot ability that is kept; above chance only for a model that can name classes to come. Needs evaluations of
    future sets (`evaluation.future`).
    """
    R = task_matrix(curve, tasks=2).R
    return mean([mean(R[:i, i]) for i in range(1, len(R))])


@metric("mtil_average", title="Avg.", higher_is_better=True, reference=MTIL, default=False)
def mtil_average(curve: Curve) -> float | None:
    """Accuracy on all sets, those to come included, averaged over experience ends.

        (1/T²) Σ_i Σ_j R[i,j]

    The third of these, Last, is `average_accuracy`.
    """
    return mean(np.ravel(task_matrix(curve).R))
