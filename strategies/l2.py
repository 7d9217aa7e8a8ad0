"""L2 towards earlier weights.

Smith, Tian, Halbe, Hsu, Kira, "A Closer Look at Rehearsal-Free Continual Learning", CVPR-W 2023, arXiv:2203.17269.
"""

from __future__ import annotations

from clbench import Strategy, chain, register
from clbench.parts import CrossEntropy, Group, HoldWeights
from clbench.ranges import NotNegative


@register("l2", family="regularisation", paper="arXiv:2203.17269", null={"strength": 0.0})
def l2(strength: NotNegative = 0.05, parameters: Group = "all", from_start: bool = True) -> Strategy:
    """L2: a quadratic penalty holds the weights near those at the end of the last experience.

    L = CE(stream) + ε · Σ_j (θ_j − θ*_j)²: EWC with all importances 1. From the start, θ* is the initial, for example
    pretrained, model in the first experience; without it, the first experience may destroy what was pretrained.

    Args:
        strength: ε. The authors' line of code has 0.05 for ResNet-18 and sweeps 5e-4 to 5e-2 for ViT-B/16.
        parameters: which are held: all; encoder, all but the head; qkv, the query, key and value projections of a
            timm transformer; head. `+freeze` says which are trained at all.
        from_start: whether the initial weights are the first anchor.

    Reference: Smith, Tian, Halbe, Hsu, Kira, "A Closer Look at Rehearsal-Free Continual Learning", CVPR-W 2023,
    arXiv:2203.17269.

    Differences from the paper:
        1. Rows of the head that belong to classes not learned yet are not held: it would be near random numbers.
    """
    return (
        chain(CrossEntropy(), HoldWeights(strength, parameters, from_start)) if strength else CrossEntropy()
    )
