"""A linear probe: what the features allow as they are."""

from __future__ import annotations

from clbench import Strategy, chain, register
from clbench.parts import CrossEntropy, TrainOnly


@register("linear-probe", family="fixed features")
def linear_probe() -> Strategy:
    """Trains the head alone, on features of a backbone that stays as it is, experience by experience.

    A baseline for whatever starts from a pretrained backbone; `joint+freeze` gives it all data so far.
    """
    return chain(TrainOnly("head"), CrossEntropy())
