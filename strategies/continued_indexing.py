"""Continued indexing: an index goes on with new documents, or with all.

Mehta et al., "DSI++: Updating Transformer Memory with New Documents", EMNLP 2023, arXiv:2212.09744.
"""

from __future__ import annotations

from typing import Literal

from clbench import Strategy, chain, register
from clbench.parts import AllDocuments, CrossEntropy, GeneratorName, pseudo_queries
from clbench.ranges import Count, Share


@register("continued-indexing", family="retrieval", paper="arXiv:2212.09744", null={"scope": "new"})
def continued_indexing(
    scope: Literal["new", "all"] = "all",
    pseudo: Share = 0.0,
    generator: GeneratorName = "spans",
    span: Count = 8,
    generator_steps: Count = 300,
) -> Strategy:
    """Continued indexing: the documents of each new corpus, or of all corpora so far, are learned one after the other.

    Cross-entropy of the document's identifier, given its text. `scope=new` is cl(D_n), which is fine-tuning;
    `scope=all` is cl(U_n), the documents D₀ ∪ … ∪ D_n, which a bound alone may keep.

    Args:
        scope: the documents of the new corpus, or all so far.
        pseudo: share of a batch's documents that are shown as pseudo-queries, where a corpus has no labelled
            queries.
        generator: what makes them: spans, random runs of a document's tokens; or a network trained on the labelled
            queries of the first corpus, which draws words (selector) or writes (writer; t5 is the T5 that the model
            starts from).
        span: tokens of a run.
        generator_steps: how long that network trains.

    Reference: Mehta et al., "DSI++: Updating Transformer Memory with New Documents", EMNLP 2023, arXiv:2212.09744.

    Differences from the paper:
        1. Set `train.iterations` for equal numbers of updates; the paper's are not published in a readable form.
    """
    documents = AllDocuments(queries=False) if scope == "all" else Strategy()
    return chain(documents, pseudo_queries(pseudo, generator, span, generator_steps), CrossEntropy())
