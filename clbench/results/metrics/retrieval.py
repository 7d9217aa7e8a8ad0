"""Metrics of a search index that meets one corpus after the other.

P[n,o] is the share of the queries of corpus o that are answered after corpus n was indexed, both counted from 0: by a
relevant document in the first place (Hits@1), or among the first ten (Hits@10). Documents that have not come are no
answers.
"""

from __future__ import annotations

import numpy as np

from clbench.results.curve import Curve, Floats, Ints
from clbench.results.metrics.core import UndefinedError, full_matrix, mean, metric, task_matrix

SINCE = 1
"""The schema of records from which on they have these metrics."""

DSI = "Mehta et al., EMNLP 2023, arXiv 2212.09744"


def _ranks(curve: Curve, column: str = "hits_at_10", corpora: int = 1) -> Floats:
    """P (T, T) of a column of ranks, where there are ranks."""
    task_matrix(curve, corpora)
    P = curve.rank_matrix(column).R[: curve.experiences]
    if np.isnan(P[-1]).any():
        raise UndefinedError
    return P


@metric(
    "hits_at_1",
    title="Hits@1",
    higher_is_better=True,
    reference=DSI,
    retrieval=True,
    shown="everywhere",
)
def hits_at_1(curve: Curve) -> float:
    """Queries answered in the first place at the end, averaged over corpora.

        A_n = (1/(n+1)) Σ_{o≤n} P[n,o],   P = Hits@1

    `average_accuracy` by another name.
    """
    return mean(full_matrix(curve).R[-1])


@metric(
    "hits_at_10", title="Hits@10", higher_is_better=True, reference=DSI, retrieval=True, shown="everywhere"
)
def hits_at_10(curve: Curve) -> float:
    """Queries answered among the first ten at the end, averaged over corpora.

    A_n = (1/(n+1)) Σ_{o≤n} P[n,o],   P = Hits@10
    """
    return mean(_ranks(curve)[-1])


@metric(
    "mrr_at_10",
    title="MRR@10",
    higher_is_better=True,
    reference=DSI,
    retrieval=True,
    unit="reciprocal rank",
    shown="everywhere",
)
def mrr_at_10(curve: Curve) -> float:
    """Mean reciprocal rank of the first relevant document among the first ten at the end, averaged over corpora.

    (1/(n+1)) Σ_{o≤n} (1/N_o) Σ_q [ rank_q ≤ 10 ] / rank_q over the N_o queries q of corpus o
    """
    return mean(_ranks(curve, "reciprocal_at_10")[-1])


@metric("index_forgetting", title="F (Hits@1)", higher_is_better=False, reference=DSI, retrieval=True)
def index_forgetting(curve: Curve) -> float:
    """Hits@1 that old corpora have lost at the end since they were at their best.

        F_n = (1/n) Σ_{o<n} max_{o'<n} (P[o',o] − P[n,o]),   P = Hits@1

    At Hits@10: `index_forgetting_at_10`.
    """
    return _forgetting(task_matrix(curve, tasks=2).R)


@metric(
    "index_forgetting_at_10",
    title="F (Hits@10)",
    higher_is_better=False,
    reference=DSI,
    retrieval=True,
    shown="everywhere",
)
def index_forgetting_at_10(curve: Curve) -> float:
    """Hits@10 that old corpora have lost at the end since they were at their best.

    F_n = (1/n) Σ_{o<n} max_{o'<n} (P[o',o] − P[n,o]),   P = Hits@10
    """
    return _forgetting(_ranks(curve, corpora=2))


@metric("index_learning", title="LA (Hits@1)", higher_is_better=True, reference=DSI, retrieval=True)
def index_learning(curve: Curve) -> float:
    """Hits@1 on each corpus but the first right after it was indexed.

        LA_n = (1/n) Σ_{1≤o≤n} P[o,o],   P = Hits@1

    At Hits@10: `index_learning_at_10`.
    """
    return mean(np.diag(task_matrix(curve, tasks=2).R)[1:])


@metric(
    "index_learning_at_10",
    title="LA (Hits@10)",
    higher_is_better=True,
    reference=DSI,
    retrieval=True,
    shown="everywhere",
)
def index_learning_at_10(curve: Curve) -> float:
    """Hits@10 on each corpus but the first right after it was indexed.

    LA_n = (1/n) Σ_{1≤o≤n} P[o,o],   P = Hits@10
    """
    return mean(np.diag(_ranks(curve, corpora=2))[1:])


@metric(
    "forgetting_events", title="events", higher_is_better=False, reference=DSI, retrieval=True, unit="events"
)
def forgetting_events(curve: Curve) -> float:
    """How often a document was mapped to itself at one look and not at the next, over all documents.

        Σ_d Σ_s [ indexed_d(s) ∧ ¬ indexed_d(s+1) ]

    A document that was never indexed has no events. Looks are those that `evaluation.indexed` asks for.
    """
    return float(_events(curve).sum())


@metric("documents_forgotten", title="forgotten", higher_is_better=False, reference=DSI, retrieval=True)
def documents_forgotten(curve: Curve) -> float:
    """Share of documents with a forgetting event.

    (1/N) #{ d : Σ_s [ indexed_d(s) ∧ ¬ indexed_d(s+1) ] > 0 } over all N documents of the stream
    """
    documents = curve.class_total.shape[1]
    if not documents:
        raise UndefinedError
    return float((_events(curve) > 0).sum() / documents)


def _forgetting(P: Floats) -> float:
    return mean(np.nanmax(P[:-1, :-1], axis=0) - P[-1, :-1])


def _events(curve: Curve) -> Ints:
    """(N,) forgetting events of each document."""
    if not len(curve.indexed_step) or not curve.finished:
        raise UndefinedError
    indexed = curve.indexed
    events: Ints = (indexed[:-1] & ~indexed[1:]).sum(0)
    return events


# --- updates against retraining ---


def average_hits_at_10(curve: Curve, experience: int) -> tuple[Ints, Floats]:
    """Updates since an experience began, (K,), and Hits@10 averaged over the corpora so far then, (K,); from ticks.

    For DSI++'s count of updates (arXiv:2212.09744).

    Raises:
        ValueError: the curve has no ticks with ranks in that experience.
    """
    rows = np.flatnonzero(~curve.full & (curve.experience == experience))
    if not len(rows) or (curve.hits_at_10[rows] < 0).any():
        raise ValueError(f"The curve has no evaluations with ranks within experience {experience}.")
    steps, tick = np.unique(curve.step[rows], return_inverse=True)
    share = curve.hits_at_10[rows] / curve.of[rows]
    before = curve.step[curve.full & (curve.experience == experience - 1)].max(initial=0)
    return steps - before, np.bincount(tick, share) / np.bincount(tick)


def updates_to_reach(curve: Curve, experience: int, target: float) -> int | None:
    """Updates of an experience until its average Hits@10 first is at least `target`; None if it never is.

    As fine as the ticks are. After DSI++ (arXiv:2212.09744).
    """
    updates, hits = average_hits_at_10(curve, experience)
    reached = np.flatnonzero(hits >= target - 1e-12)
    return int(updates[reached[0]]) if len(reached) else None


def updates_saved(update: Curve, retrain: Curve) -> tuple[float, int]:
    """Return how many times the updates of updating an index retraining takes to the same average Hits@10.

        Σ_k R_k / Σ_k U_k over the corpora k ≥ 1

    U_k are the updates that the updated index takes for corpus k, R_k those after which one that was trained from
    scratch on all documents so far has the average Hits@10 that the updated index ends with. Where it never has, R_k is
    all it was given, so that the factor is a lower bound. After DSI++ (arXiv:2212.09744).

    Returns:
        The factor, and the number of corpora for which retraining fell short.
    """
    taken, needed, short = 0, 0, 0
    for k in range(1, update.experiences):
        updates, hits = average_hits_at_10(update, k)
        reached = updates_to_reach(retrain, k, float(hits[-1]))
        taken += int(updates[-1])
        needed += int(average_hits_at_10(retrain, k)[0][-1]) if reached is None else reached
        short += reached is None
    return needed / taken, short
