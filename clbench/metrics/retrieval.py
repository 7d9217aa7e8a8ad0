"""Metrics of a search index that meets one corpus after the other.

P[n,o] is the share of the queries of corpus o that are answered after corpus n was indexed, both counted from 0: by a
relevant document in the first place (Hits@1), or among the first ten (Hits@10). Documents that have not come are no
answers.
"""

from __future__ import annotations

import numpy as np

from clbench.curve import Curve, Floats, Ints
from clbench.metrics.core import UndefinedError, full_matrix, mean, metric, task_matrix

DSI = "Mehta et al., EMNLP 2023, arXiv 2212.09744"


def _ranks(curve: Curve, column: str = "hits_at_10", corpora: int = 1) -> Floats:
    """P (T, T) of a column of ranks, where there are ranks."""
    task_matrix(curve, corpora)
    P = curve.rank_matrix(column).R[: curve.experiences]
    if np.isnan(P[-1]).any():
        raise UndefinedError
    return P


@metric("hits_at_1", title="Hits@1", higher_is_better=True, reference=DSI, retrieval=True)
def hits_at_1(curve: Curve) -> float:
    """Queries answered in the first place at the end, averaged over corpora.

        A_n = (1/(n+1)) Σ_{o≤n} P[n,o],   P = Hits@1

    `average_accuracy` by another name.
    """
    return mean(full_matrix(curve).R[-1])


@metric("hits_at_10", title="Hits@10", higher_is_better=True, reference=DSI, retrieval=True)
def hits_at_10(curve: Curve) -> float:
    """Queries answered among the first ten at the end, averaged over corpora.

    A_n = (1/(n+1)) Σ_{o≤n} P[n,o],   P = Hits@10
    """
    return mean(_ranks(curve)[-1])


@metric(
    "mrr_at_10", title="MRR@10", higher_is_better=True, reference=DSI, retrieval=True, unit="reciprocal rank"
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


@metric("index_forgetting_at_10", title="F (Hits@10)", higher_is_better=False, reference=DSI, retrieval=True)
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


@metric("index_learning_at_10", title="LA (Hits@10)", higher_is_better=True, reference=DSI, retrieval=True)
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

    A document that was never indexed has no events. Of looks that `evaluation.documents` has asked for.
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
