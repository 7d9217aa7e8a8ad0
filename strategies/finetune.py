"""Fine-tuning: the lower bound."""

from __future__ import annotations

from typing import Literal

from clbench import Strategy, chain, register
from clbench.parts import BinaryCrossEntropy, CrossEntropy, GrowingHead, LocalCrossEntropy


@register("finetune", family="bounds", null={})
def finetune(loss: Literal["softmax", "local", "bce", "local-bce"] = "softmax") -> Strategy:
    """Trains on each experience as it comes and does nothing about forgetting: the lower bound.

    Also called naive, sequential or SGD.

    Args:
        loss: softmax, cross-entropy over all classes; local, over the present experience's classes, for rows of
            the stream (masked cross-entropy, "FT++"); bce, a sigmoid for each class seen so far, mean over rows and
            classes; local-bce, a sigmoid for each class of the present experience. All but the first have a growing
            head, and replace the cross-entropy of other parts of a chain: `finetune+ewc finetune.loss=bce`. They are
            the variants of Smith et al., "A Closer Look at Rehearsal-Free Continual Learning", CVPR-W 2023,
            arXiv:2203.17269.
    """
    if loss == "softmax":
        return CrossEntropy()
    if loss == "local":
        return chain(GrowingHead(), LocalCrossEntropy())
    return chain(GrowingHead(), BinaryCrossEntropy("seen" if loss == "bce" else "present"))
