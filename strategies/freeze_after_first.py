"""A backbone that is trained in the first experience and frozen from then on."""

from __future__ import annotations

from clbench import Strategy, register
from clbench.parts import SettleAfterFirst


@register("freeze-after-first", family="few-shot", modifier=True)
def freeze_after_first() -> Strategy:
    """Trains the backbone in the first experience only, around any other strategy; the head goes on learning.

    `finetune+freeze-after-first` is the linear probe of streams whose first experience has most of the data. The
    backbone is in eval mode from then on, so that batch normalisation keeps the statistics of the first experience:
    those of a few images would spoil it.
    """
    return SettleAfterFirst()
