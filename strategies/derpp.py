"""Dark Experience Replay++ (DER++).

Buzzega et al., "Dark Experience for General Continual Learning: a Strong, Simple Baseline", NeurIPS 2020,
arXiv:2004.07211.
"""

from __future__ import annotations

from clbench import Strategy, chain, register
from clbench.parts import CrossEntropy, DarkReplay
from clbench.ranges import Natural, NotNegative


@register("derpp", family="replay", paper="arXiv:2004.07211", null={"alpha": 0.0, "beta": 0.0})
def derpp(
    memory: Natural = 200, draw: Natural | None = None, alpha: NotNegative = 0.1, beta: NotNegative = 0.5
) -> Strategy:
    """Dark Experience Replay++: replay with both the labels and the logits that examples once had.

    L = CE(stream) + α · MSE(present logits, stored logits) + β · CE(replayed), with two independent draws.

    Args:
        memory: examples the reservoir holds.
        draw: examples in each of the two draws; as many as the stream brings if none is given.
        alpha: α, weight of the stored logits.
        beta: β, weight of the stored labels.

    Reference: Buzzega et al., "Dark Experience for General Continual Learning: a Strong, Simple Baseline", NeurIPS
    2020, arXiv:2004.07211. The defaults are the authors' for Split CIFAR-10 with a memory of 200.

    Differences from the paper:
        1. With task labels, the classes of other tasks are masked before the mean over columns is taken, and add zeros
           to it; the authors compare all logits in every setting.
    """
    return chain(CrossEntropy(), DarkReplay(memory, draw, alpha, beta))
