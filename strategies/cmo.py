"""Context-rich minority oversampling (CMO).

Park et al., "The Majority Can Help The Minority: Context-rich Minority Oversampling for Long-tailed Classification",
CVPR 2022, arXiv:2112.00412.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clbench import Strategy, chain, register
from clbench.parts import Mix, PlainRows
from clbench.ranges import Natural, NotNegative, Share


@register(
    "cmo",
    family="rare classes",
    paper="arXiv:2112.00412",
    modifier=True,
    null={"probability": 0.0},
    tiny={"start": 0, "end": 0},
)
def cmo(
    probability: Share = 0.5,
    power: NotNegative = 1.0,
    start: Annotated[int, Field(ge=-1)] = 3,
    end: Natural = 1,
) -> Strategy:
    """CMO: boxes of images of rare classes are pasted into a batch, whose rows then have two labels.

    With probability p a batch is mixed: x ← x outside a random box, x' inside, and the loss is λ ℓ(y) + (1 − λ) ℓ(y'),
    λ the area outside. x' are drawn with weights 1 / n_c^q, so that with q = 1 every class is drawn equally often.
    Around any other strategy, and beside `balanced-softmax`, `ldam-drw` and `imbsam`; from the second experience on.

    Args:
        probability: p; 0.5 by default in the authors' code, 0.2 in the best combination for few-shot streams.
        power: q.
        start: the first passes 0 … `start` over an experience are not mixed. end: nor are the last so many.

    Reference: Park et al., "The Majority Can Help The Minority: Context-rich Minority Oversampling for Long-tailed
    Classification", CVPR 2022, arXiv:2112.00412; for few-shot streams Kim et al., ICCV-W 2025, arXiv:2503.10003.

    Differences from the authors' code:
        1. λ is uniform, Beta(1, 1), their default; other Betas cannot be had.
        2. Inputs that are no images are mixed by a run of features.
        3. Rows that replay adds are mixed as the stream's are; x' come from the experience's examples.
    """
    if probability == 0:
        return Strategy()
    return chain(PlainRows(), Mix(probability, power, start, end))
