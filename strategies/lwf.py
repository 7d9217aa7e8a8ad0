"""Learning without Forgetting (LwF).

Li & Hoiem, "Learning without Forgetting", ECCV 2016, arXiv:1606.09282.
"""

from __future__ import annotations

from typing import Literal

from clbench import Strategy, chain, register
from clbench.parts import CrossEntropy, Distil, Teacher
from clbench.ranges import NotNegative, Positive


@register("lwf", family="distillation", paper="arXiv:1606.09282", null={"alpha": 0.0})
def lwf(
    alpha: NotNegative = 1.0, temperature: Positive = 2.0, columns: Literal["old", "all"] = "old"
) -> Strategy:
    """Learning without Forgetting: the last experience's model teaches the present one on new data.

    L = CE(stream) + α · KL(teacher ‖ model) over the classes seen before, at temperature T.

    Args:
        alpha: α, weight of the distillation.
        temperature: T.
        columns: whether probabilities are normalised over the old classes (the paper) or over all.

    Reference: Li & Hoiem, "Learning without Forgetting", ECCV 2016, arXiv:1606.09282.

    Differences from the paper:
        1. One head over all classes in place of one per task, since most settings give no task labels; the
           cross-entropy is over all classes. With task labels, it is over the task's classes, and
           the distillation over those of all earlier tasks together.
        2. KL in place of the cross-entropy with the teacher: the gradients are the same, and 0 means agreement.
        3. The new head is not trained alone first (the paper's warm-up step).
    """
    distil = Distil(alpha, temperature, columns)
    return chain(CrossEntropy(), distil, Teacher()) if alpha else CrossEntropy()
