"""Prediction distillation without rehearsal (PredKD).

Smith, Tian, Halbe, Hsu, Kira, "A Closer Look at Rehearsal-Free Continual Learning", CVPR-W 2023, arXiv:2203.17269.
"""

from __future__ import annotations

from typing import Literal

from clbench import Strategy, chain, register
from clbench.parts import BinaryCrossEntropy, CrossEntropy, Distil, GrowingHead, Teacher
from clbench.ranges import NotNegative, Positive


@register("pred-kd", family="distillation", paper="arXiv:2203.17269", null={"loss": "softmax", "alpha": 0.0})
def pred_kd(
    loss: Literal["bce", "softmax"] = "bce", alpha: NotNegative = 1.0, temperature: Positive = 2.0
) -> Strategy:
    """PredKD: the last experience's model gives the targets of old classes, labels those of new ones.

    With sigmoids, L = 1/(B V) Σ_b Σ_v BCE(σ(z_bv), y_bv) over the V classes seen so far; y_bv is the label for the
    present classes and σ(ẑ_bv), the last model's, for past ones, so that no weight is to be chosen. With softmax,
    L = CE(stream) + α · KL(teacher ‖ model) over the past classes at temperature T, which is `lwf`. It combines:
    `pred-kd+l2`, `pred-kd+ewc`, `pred-kd+feat-kd`.

    Args:
        loss: bce, the paper's, with a growing head; softmax, its comparison.
        alpha: α, of the softmax form only.
        temperature: T, of the same.

    Reference: Smith, Tian, Halbe, Hsu, Kira, "A Closer Look at Rehearsal-Free Continual Learning", CVPR-W 2023,
    arXiv:2203.17269.

    Differences from the paper:
        1. The softmax form's cross-entropy is over all classes of the stream; add `growing-head` for those seen so far.
        2. KL in place of the cross-entropy with the teacher: the gradients are the same, and 0 means agreement.
        3. Training updates are in training mode. Older code of the authors' line trains with the network in eval mode
           and multiplies the sigmoid loss by 5.
        4. With replay in the chain, replayed rows have the teacher's targets for past classes, too.
    """
    if loss == "softmax":
        return (
            chain(CrossEntropy(), Distil(alpha, temperature, "old"), Teacher()) if alpha else CrossEntropy()
        )
    if alpha != 1:
        raise ValueError(f"alpha is of the softmax form only, loss=softmax; {alpha} was given with loss=bce")
    return chain(GrowingHead(), BinaryCrossEntropy(distil=True), Teacher())
