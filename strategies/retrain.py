"""Retraining from scratch whenever documents come: the bound that updating is measured against.

Mehta et al., "DSI++: Updating Transformer Memory with New Documents", EMNLP 2023, arXiv:2212.09744.
"""

from __future__ import annotations

from clbench import Experience, Run, Strategy, chain, register
from clbench.parts import AllDocuments, CrossEntropy, GeneratorName, pseudo_queries
from clbench.ranges import Count, Share


class Restart(Strategy):
    """Weights, running statistics and the optimizer are as at the start whenever a later experience begins."""

    needs = frozenset({"boundaries"})
    parallel = True

    def setup(self, run: Run) -> None:
        self.start = {name: value.detach().clone() for name, value in run.model.state_dict().items()}

    def begin_experience(self, exp: Experience) -> None:
        if exp.index:
            self.run.model.load_state_dict(self.start)
            self.run.renew_optimizer()


@register("retrain", family="retrieval", paper="arXiv:2212.09744")
def retrain(
    pseudo: Share = 0.0, generator: GeneratorName = "spans", span: Count = 8, generator_steps: Count = 300
) -> Strategy:
    """Retraining: with every corpus, a new index is trained on all documents so far and on the labelled queries.

    train(U_n). Weights begin where the first index began, with a fresh optimizer. It forgets nothing and knows nothing:
    what an update of the index costs shows beside it, in updates to the same Hits@10.

    Args:
        pseudo: share of a batch's documents that are shown as pseudo-queries, once there are corpora
            without labelled queries.
        generator: what makes them: spans, random runs of a document's tokens; or a network trained on the labelled
            queries of the first corpus, which draws words (selector) or writes (writer; t5 is the T5 that the model
            starts from).
        span: tokens of a run.
        generator_steps: how long that network trains.

    Reference: Mehta et al., "DSI++: Updating Transformer Memory with New Documents", EMNLP 2023, arXiv:2212.09744.

    Differences from the paper:
        1. The weights that it begins with are the same every time.
    """
    asked = pseudo_queries(pseudo, generator, span, generator_steps)
    return chain(Restart(), AllDocuments(queries=True), asked, CrossEntropy())
