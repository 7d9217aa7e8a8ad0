"""Base only: what a few-shot stream gives to a model that learns nothing after its base session."""

from __future__ import annotations

from clbench import Strategy, chain, register
from clbench.parts import LearnFirst, SettleAfterFirst


@register("base-only", family="few-shot")
def base_only() -> Strategy:
    """Trains in the first experience and never again; classes that come later are never predicted.

    On a few-shot stream its accuracy is that of the base session times the share of base classes, and its harmonic mean
    of
    base and novel accuracy is 0: what an overall accuracy must be read against.
    """
    return chain(SettleAfterFirst(), LearnFirst())
