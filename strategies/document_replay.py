"""Episodic replay of documents.

Mehta et al., "DSI++: Updating Transformer Memory with New Documents", EMNLP 2023, arXiv:2212.09744.
"""

from __future__ import annotations

from clbench import Strategy, chain, register
from clbench.parts import CrossEntropy, GeneratorName, RememberDocuments, pseudo_queries
from clbench.ranges import Count, Natural, Share


@register("document-replay", family="retrieval", paper="arXiv:2212.09744", null={"share": 0.0})
def document_replay(
    memory: Natural = 10_000,
    share: Share = 0.5,
    rate: Share = 1.0,
    queries: bool = False,
    pseudo: Share = 0.0,
    generator: GeneratorName = "spans",
    span: Count = 8,
    generator_steps: Count = 300,
) -> Strategy:
    """Episodic memory: documents of old corpora take the place of part of every batch of new ones.

    Cross-entropy over new and old documents together. Steps and batch size are those without replay, so that old
    documents cost new ones their places.

    Args:
        memory: documents kept, a uniform sample of all so far.
        share: which part of a batch is replayed.
        rate: share of the steps that replay; 1/32 = 0.03125 with `share=1` is sparse replay.
        queries: keep the labelled queries of the first corpus, too.
        pseudo: share of a batch's new documents that are shown as pseudo-queries, where a corpus has no labelled
            queries.
        generator: what makes them: spans, random runs of a document's tokens; or a network trained on the labelled
            queries of the first corpus, which draws words (selector) or writes (writer; t5 is the T5 that the model
            starts from).
        span: tokens of a run.
        generator_steps: how long that network trains.

    Reference: Mehta et al., "DSI++: Updating Transformer Memory with New Documents", EMNLP 2023, arXiv:2212.09744; a
    baseline there.

    Differences from the paper:
        1. Every step replays by default, where the paper interleaves batches of replay at a low rate.
    """
    replay = RememberDocuments(memory, share, rate, queries=queries) if share and rate else Strategy()
    return chain(replay, pseudo_queries(pseudo, generator, span, generator_steps), CrossEntropy())
