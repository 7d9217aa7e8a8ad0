"""How good an order of experiences was, on request."""

from __future__ import annotations

from clbench.results.curve import Curve
from clbench.results.metrics.core import mean, metric, task_matrix


@metric(
    "curriculum_quality",
    title="F(order)",
    higher_is_better=True,
    reference="Singh et al., ICCV 2023",
    unit="harmonic mean",
    default=False,
)
def curriculum_quality(curve: Curve) -> float | None:
    """Harmonic mean of the accuracy at the end and the inverse of what the first task lost.

        2 a / (a f + 1),   a = (1/T) Σ_j R[T,j],   f = R[1,1] − R[T,1]

    What the orders of the curriculum designer are compared by.
    """
    R = task_matrix(curve, tasks=2).R
    a, f = mean(R[-1]), R[0, 0] - R[-1, 0]
    return float(2 * a / (a * f + 1))
