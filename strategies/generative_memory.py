"""Generative memory: pseudo-queries of old and of new documents (DSI++).

Mehta et al., "DSI++: Updating Transformer Memory with New Documents", EMNLP 2023, arXiv:2212.09744.
"""

from __future__ import annotations

from clbench import Strategy, chain, register
from clbench.parts import CrossEntropy, GeneratorName, PseudoQueries, RememberDocuments, questioner
from clbench.ranges import Count, Natural, Share


@register(
    "generative-memory", family="retrieval", paper="arXiv:2212.09744", null={"share": 0.0, "pseudo": 0.0}
)
def generative_memory(
    memory: Natural = 10_000,
    share: Share = 0.5,
    rate: Share = 1.0,
    pseudo: Share = 0.5,
    generator: GeneratorName = "spans",
    span: Count = 8,
    generator_steps: Count = 300,
) -> Strategy:
    """Generative memory: queries that a generator asks of old documents are replayed, and new ones are learned by them.

    Part of every batch is pairs (q̂ → d) with q̂ = G(x_d) for old documents d; part of the new documents in the rest is
    shown as such queries, too, since later corpora come without labelled ones. Steps and batch size are those without.

    Args:
        memory: documents kept to ask queries of, a uniform sample of all so far.
        share: which part of a batch is replayed.
        rate: share of the steps that replay; 1/32 = 0.03125 with `share=1` is sparse replay.
        pseudo: share of a batch's new documents that are shown as queries, where a corpus has no labelled ones.
        generator: spans, random runs of a document's tokens, which need no training; or a network trained on the
            labelled queries of the first corpus when that ends, which draws words (selector) or writes (writer; t5 is
            the T5 that the model starts from).
        span: tokens of a run.
        generator_steps: how long that network trains; it counts in the time of a run and not in its updates.

    Reference: Mehta et al., "DSI++: Updating Transformer Memory with New Documents", EMNLP 2023, arXiv:2212.09744.

    Differences from the paper:
        1. Queries are asked anew whenever a document is drawn; the paper asks once and keeps them.
        2. The generator is by default no network at all, and otherwise a small one trained from nothing; the paper's
           is a T5.
        3. Every step replays by default, where the paper interleaves batches of replay at a low rate.
    """
    asks = questioner(generator, span, generator_steps)
    parts: list[Strategy] = [RememberDocuments(memory, share, rate, asks)] if share and rate else []
    if pseudo:
        parts.append(PseudoQueries(pseudo, asks))
    if parts:
        parts.insert(0, asks)
    return chain(*parts, CrossEntropy())
