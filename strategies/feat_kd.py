"""Feature distillation without rehearsal (FeatKD).

Smith, Tian, Halbe, Hsu, Kira, "A Closer Look at Rehearsal-Free Continual Learning", CVPR-W 2023, arXiv:2203.17269.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Output, Run, Strategy, chain, register
from clbench.parts import CrossEntropy, Teacher, mean_of_labels, teacher_of
from clbench.ranges import NotNegative


class KeepFeatures(Strategy):
    """Features stay near the teacher's: `features` is μ · mean over rows and features of (φ − φ_teacher)².

    Needs a `Teacher` in the chain. With `from_start`, the initial model is the first experience's teacher.
    """

    parallel = True
    capturable = True
    language = True

    def __init__(self, strength: float, from_start: bool) -> None:
        self.strength, self.from_start = strength, from_start

    def setup(self, run: Run) -> None:
        self.teacher = teacher_of(run)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if self.strength == 0 or not (self.teacher.taught or self.from_start):
            return {}
        past = self.teacher.output(batch).features
        if batch.y.ndim == 1:
            return {"features": self.strength * F.mse_loss(out.features, past)}
        return {"features": self.strength * mean_of_labels((out.features - past).square().mean(-1), batch.y)}


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
