"""Fine-tuning: the lower bound."""

from __future__ import annotations

from clbench import Strategy, register
from clbench.parts import CrossEntropy


@register("finetune", null={})
def finetune() -> Strategy:
    """Trains on each experience as it comes and does nothing about forgetting: the lower bound.

    Also called naive, sequential or SGD.
    """
    return CrossEntropy()
