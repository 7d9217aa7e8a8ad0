"""Continued indexing: an index goes on with new documents, or with all.

Mehta et al., "DSI++: Updating Transformer Memory with New Documents", EMNLP 2023, arXiv:2212.09744.
"""

from __future__ import annotations

from typing import Literal

from clbench import Strategy, chain, register
from clbench.parts import AllDocuments, CrossEntropy, PseudoQueries, Spans


@register("continued-indexing", paper="arXiv:2212.09744", null={"corpora": "new"})
def continued_indexing(
    corpora: Literal["new", "all"] = "all", pseudo: float = 0.0, span: int = 8
) -> Strategy:
    """Continued indexing: the documents of each new corpus, or of all corpora so far, are learned one after the other.

    Cross-entropy of the document's identifier, given its text. `corpora=new` is cl(D_n), which is fine-tuning;
    `corpora=all` is cl(U_n), the documents D₀ ∪ … ∪ D_n, which a bound alone may keep.

    Args:
        corpora: new or all.
        pseudo: share of a batch's documents that are shown as a random run of their tokens, where a corpus has no
            labelled queries.
        span: tokens of such a run.

    Reference: Mehta et al., "DSI++: Updating Transformer Memory with New Documents", EMNLP 2023, arXiv:2212.09744.

    Differences from the paper:
        1. Set `train.iterations` for equal numbers of updates; the paper's are not published in a readable form.
    """
    _check(pseudo, span)
    parts: list[Strategy] = [AllDocuments(queries=False)] if corpora == "all" else []
    if pseudo:
        parts.append(PseudoQueries(pseudo, Spans(span)))
    return chain(*parts, CrossEntropy())


def _check(share: float, span: int) -> None:
    if not 0 <= share <= 1 or span < 1:
        raise ValueError(f"pseudo is between 0 and 1 and span 1 or more; {share} and {span} were given")
