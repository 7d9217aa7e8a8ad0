"""A head that grows with the classes seen."""

from __future__ import annotations

from clbench import Strategy, register
from clbench.parts import GrowingHead


@register("growing-head", family="training", modifier=True)
def growing_head() -> Strategy:
    """Only classes seen so far have an output, around any other strategy: cross-entropy and prediction are over these.

    The outputs of an experience's classes join when it begins. They are all allocated and masked until then, which is
    the same function and leaves optimizer and checkpoints alone. Without it, the cross-entropy is over all classes of
    the stream from the start, as clbench's defaults have it.
    """
    return GrowingHead()
