"""Metrics of streams in time order, on request: a model is tested on the bucket that comes next, or on all to come."""

from __future__ import annotations

import numpy as np

from clbench.results.curve import Curve
from clbench.results.metrics.core import mean, metric, task_matrix

CLEAR = "Lin et al., NeurIPS 2021 (Datasets and Benchmarks), arXiv 2201.06289"


@metric("in_domain_accuracy", title="in-domain", higher_is_better=True, reference=CLEAR, default=False)
def in_domain_accuracy(curve: Curve) -> float | None:
    """Accuracy on each task right after it was learned, averaged.

    (1/T) Σ_i R[i,i]
    """
    return mean(np.diag(task_matrix(curve).R))


@metric("next_domain_accuracy", title="next-domain", higher_is_better=True, reference=CLEAR, default=False)
def next_domain_accuracy(curve: Curve) -> float | None:
    """Accuracy on the task that comes next, before it is learned, averaged: what a model in use would have.

        (1/(T−1)) Σ_{i<T} R[i,i+1]

    Needs evaluations of future tasks (`evaluation.future`).
    """
    return mean(np.diag(task_matrix(curve, tasks=2).R, k=1))


@metric(
    "lower_triangle_accuracy", title="seen domains", higher_is_better=True, reference=CLEAR, default=False
)
def lower_triangle_accuracy(curve: Curve) -> float | None:
    """Accuracy on all tasks so far, after each, averaged over these pairs: CLEAR's "accuracy".

        (2/(T(T+1))) Σ_i Σ_{j≤i} R[i,j]

    Without the diagonal, it is what CLEAR calls backward transfer, which is no difference there.
    """
    R = task_matrix(curve).R
    return mean(R[np.tril_indices(len(R))])


@metric("forward_transfer_raw", title="FWT (raw)", higher_is_better=True, reference=CLEAR, default=False)
def forward_transfer_raw(curve: Curve) -> float | None:
    """Accuracy on all tasks to come, after each, averaged over these pairs, without the accuracy before training.

        (2/(T(T−1))) Σ_i Σ_{j>i} R[i,j]

    Needs evaluations of future tasks (`evaluation.future`).
    """
    R = task_matrix(curve, tasks=2).R
    return mean(R[np.triu_indices(len(R), k=1)])
