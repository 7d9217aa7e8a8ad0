"""Sharpness-aware minimisation for rare classes only (ImbSAM).

Zhou et al., "ImbSAM: A Closer Look at Sharpness-Aware Minimization in Class-Imbalanced Recognition", ICCV 2023,
arXiv:2308.07815.
"""

from __future__ import annotations

from clbench import Strategy, chain, register
from clbench.parts import PlainRows, TailSharpness
from clbench.ranges import NotNegative


@register("imbsam", family="rare classes", paper="arXiv:2308.07815", modifier=True)
def imbsam(rho: NotNegative = 0.05) -> Strategy:
    """ImbSAM: the gradient of rare classes' rows is taken a step of length ρ up their loss, and counts twice.

    g = ∇ Σ_head ℓ / B at θ + ∇ 2 Σ_tail ℓ / B at θ + ε, ε = ρ g_tail / ‖g_tail‖. Rare are the classes that came after
    the first experience. Around any other strategy, and beside `balanced-softmax`, `ldam-drw` and `cmo`, where a row is
    rare if either of its labels is.

    Args:
        rho: ρ.

    Reference: Zhou et al., "ImbSAM: A Closer Look at Sharpness-Aware Minimization in Class-Imbalanced Recognition",
    ICCV 2023, arXiv:2308.07815, as Kim et al., ICCV-W 2025, arXiv:2503.10003, use it for few-shot streams.

    Differences from Kim et al.'s code:
        1. Running statistics of batch normalisation move once a step, not twice.
        2. A batch without rare rows takes one pass; there it takes three, to the same gradient.
        3. Other losses of the chain, such as penalties, are part of the head's gradient.
    """
    return chain(PlainRows(), TailSharpness(rho))
