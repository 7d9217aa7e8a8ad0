"""Feature distillation without rehearsal (FeatKD).

Smith, Tian, Halbe, Hsu, Kira, "A Closer Look at Rehearsal-Free Continual Learning", CVPR-W 2023, arXiv:2203.17269.
"""

from __future__ import annotations

from clbench import Strategy, chain, register
from clbench.parts import CrossEntropy, KeepFeatures, Teacher
from clbench.ranges import NotNegative


@register("feat-kd", family="distillation", paper="arXiv:2203.17269", null={"strength": 0.0})
def feat_kd(strength: NotNegative = 50.0, from_start: bool = True) -> Strategy:
    """FeatKD: the features of new examples stay near what the last experience's model makes of them.

    L = CE(stream) + μ · mean over rows and features of (φ(x) − φ_teacher(x))², φ the input of the head.

    Args:
        strength: μ.
        from_start: whether the initial model is the first experience's teacher, so that a pretrained one is kept.

    Reference: Smith, Tian, Halbe, Hsu, Kira, "A Closer Look at Rehearsal-Free Continual Learning", CVPR-W 2023,
    arXiv:2203.17269.
    The default is that of the authors' line of code, where 1 and 5 also occur.

    Differences from the paper:
        1. The penultimate layer only, as in code; the paper writes a general layer and the squared norm.
    """
    if strength == 0:
        return CrossEntropy()
    return chain(CrossEntropy(), KeepFeatures(strength, from_start), Teacher())
