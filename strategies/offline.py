"""Offline training: one experience with everything."""

from __future__ import annotations

from clbench import Strategy, chain, register
from clbench.parts import AllAtOnce, CrossEntropy


@register("offline", family="bounds")
def offline() -> Strategy:
    """Trains once, on the shuffled data of the whole stream: what the model reaches without a stream at all.

    Also called i.i.d. or multi-task training.
    """
    return chain(AllAtOnce(), CrossEntropy())
