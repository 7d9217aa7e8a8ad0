"""Retraining from scratch whenever documents come: the bound that updating is measured against.

Mehta et al., "DSI++: Updating Transformer Memory with New Documents", EMNLP 2023, arXiv:2212.09744.
"""

from __future__ import annotations

from clbench import Strategy, chain, register
from clbench.parts import AllDocuments, CrossEntropy, PseudoQueries, Restart, Spans


@register("retrain", paper="arXiv:2212.09744")
def retrain(pseudo: float = 0.0, span: int = 8) -> Strategy:
    """Retraining: with every corpus, a new index is trained on all documents so far and on the labelled queries.

    train(U_n). Weights begin where the first index began, with a fresh optimizer. It forgets nothing and knows nothing:
    what an update of the index costs shows beside it, in updates to the same Hits@10.

    Args:
        pseudo: share of a batch's documents that are shown as a random run of their tokens, once there are corpora
            without labelled queries.
        span: tokens of such a run.

    Reference: Mehta et al., "DSI++: Updating Transformer Memory with New Documents", EMNLP 2023, arXiv:2212.09744.

    Differences from the paper:
        1. The weights that it begins with are the same every time.
    """
    if not 0 <= pseudo <= 1 or span < 1:
        raise ValueError(f"pseudo is between 0 and 1 and span 1 or more; {pseudo} and {span} were given")
    parts: list[Strategy] = [PseudoQueries(pseudo, Spans(span))] if pseudo else []
    return chain(Restart(), AllDocuments(queries=True), *parts, CrossEntropy())
