"""Zero-shot classification by a dual encoder: what an image is said to show is the name that lies nearest.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv:2103.00020.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from clbench import Strategy, register
from clbench.parts import AsIs, ByName


class ZeroShot(ByName):
    """Train nothing; predict among the classes seen so far."""

    exempt: ClassVar[dict[str, str]] = {"learns": "it does not learn"}
    parallel = True

    def wrap(self, model: nn.Module) -> nn.Module:
        model = super().wrap(model).requires_grad_(False)
        model.backbone = AsIs(model.backbone)  # type: ignore[arg-type]
        return model

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        return self.run.forward(x, task).logits


@register("zero-shot", family="dual encoders", paper="arXiv:2103.00020")
def zero_shot() -> Strategy:
    """Zero-shot: a dual encoder as it is predicts the seen class whose name lies nearest to the image.

    The number to print beside whatever is learned on top of such an encoder. Needs a dual encoder (`model=clip` or
    `toy-clip`) and a benchmark with class names; a name is written with a full stop, as `cpe-clip` does.

    Reference: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
    arXiv:2103.00020.

    Differences from the paper:
        1. One text for a class, its name; no ensemble of sentences around it.
    """
    return ZeroShot()
