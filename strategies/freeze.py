"""Freezing: some of a model's parameters are trained, the others stay.

Smith, Tian, Halbe, Hsu, Kira, "A Closer Look at Rehearsal-Free Continual Learning", CVPR-W 2023, arXiv:2203.17269.
"""

from __future__ import annotations

from typing import Literal

from clbench import Strategy, register
from clbench.parts import TrainOnly


@register("freeze", family="fixed features", paper="arXiv:2203.17269", modifier=True)
def freeze(train: Literal["head", "qkv", "encoder"] = "head") -> Strategy:
    """Trains a part of the model only, around any other strategy: the attention's projections, for example.

    Args:
        train: head, with the backbone in eval mode; qkv, the query, key and value projections of a timm transformer and
            the head, as in the paper's experiments with transformers; encoder, all but the head.

    Reference: Smith, Tian, Halbe, Hsu, Kira, "A Closer Look at Rehearsal-Free Continual Learning", CVPR-W 2023,
    arXiv:2203.17269.
    """
    return TrainOnly("qkv", "head") if train == "qkv" else TrainOnly(train)
