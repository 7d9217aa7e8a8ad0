"""Dark Experience Replay (DER).

Buzzega et al., "Dark Experience for General Continual Learning: a Strong, Simple Baseline", NeurIPS 2020,
arXiv:2004.07211.
"""

from __future__ import annotations

from clbench import Strategy, chain, register
from clbench.parts import CrossEntropy, DarkReplay
from clbench.ranges import Natural, NotNegative


@register("der", family="replay", paper="arXiv:2004.07211", null={"alpha": 0.0})
def der(memory: Natural = 200, draw: Natural | None = None, alpha: NotNegative = 0.3) -> Strategy:
    """Dark Experience Replay: stored examples must keep the logits they once had; their labels are not used.

    L = CE(stream) + α · MSE(present logits, stored logits). `derpp` adds the labels.

    Args:
        memory: examples the reservoir holds.
        draw: examples in a draw; as many as the stream brings if none is given.
        alpha: α, weight of the stored logits.

    Reference: Buzzega et al., "Dark Experience for General Continual Learning: a Strong, Simple Baseline", NeurIPS
    2020, arXiv:2004.07211. The default is the authors' for Split CIFAR-10, whatever the size of the memory.

    Differences from the paper:
        1. With task labels, the classes of other tasks are masked before the mean over columns is taken, and add zeros
           to it; the authors compare all logits in every setting.
    """
    return chain(CrossEntropy(), DarkReplay(memory, draw, alpha, beta=0.0))
