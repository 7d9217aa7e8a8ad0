"""Images towards the names of their classes: training the image tower of a dual encoder whose text tower stays.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv:2103.00020.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from clbench import Strategy, chain, register
from clbench.parts import ByName, CrossEntropy


class FixedNames(ByName):
    """The text tower is frozen."""

    exempt: ClassVar[dict[str, str]] = {"learns": "100 · cos is too steep for the checks' learning rate"}
    parallel = True

    def put_into(self, encoder: Any) -> nn.Module:
        for tensor in encoder.text_sources():
            tensor.requires_grad_(False)
        fixed: nn.Module = encoder
        return fixed


@register("align", family="dual encoders", paper="arXiv:2103.00020")
def align() -> Strategy:
    """Aligns images with the names of their classes: what pretrains the image tower of a toy dual encoder.

    L = cross-entropy of 100 · cos(image, name) over the names of the present experience's classes: InfoNCE with one
    caption for each class. The text tower is frozen.

    Reference: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
    arXiv:2103.00020.

    Differences from the paper:
        1. Only the image tower learns, and the temperature does not: 100, where the paper's ends.
        2. An image is told from other classes' names and not from the batch's captions, many of which would be equal;
           the loss has one direction.
    """
    return chain(FixedNames(), CrossEntropy())
