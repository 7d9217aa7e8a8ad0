"""Label-distribution-aware margins with deferred re-weighting (LDAM-DRW).

Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019, arXiv:1906.07413.
"""

from __future__ import annotations

from clbench import Strategy, chain, register
from clbench.parts import GrowingHead, Margins, Normalised
from clbench.ranges import Fraction, Natural, NotNegative, Positive


@register("ldam-drw", family="rare classes", paper="arXiv:1906.07413", modifier=True)
def ldam_drw(
    margin: NotNegative = 0.5, scale: Positive = 30.0, defer: Natural = 160, beta: Fraction = 0.9999
) -> Strategy:
    """LDAM-DRW: rare classes get larger margins from the start and larger weights late, in place of cross-entropy.

    ℓ = w_y CE(s (z − m_y 1_y), y) with cosines z, m_c = m n_c^−¼ / max_k n_k^−¼, and, from pass `defer` of an
    experience on, w_c = (1 − β) / (1 − β^n_c), scaled to mean 1; the mean over rows is weighted. Around any other
    strategy.

    Args:
        margin: m, of the rarest class.
        scale: s.
        defer: passes over an experience with equal weights; 160 of 200 in both papers' code. Set it with the epochs.
        beta: β.

    Reference: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019,
    arXiv:1906.07413; for few-shot streams Kim et al., ICCV-W 2025, arXiv:2503.10003.

    Differences from the authors' code:
        1. The weights of the cosine head begin as those of the linear one.
        2. n_c is the most examples of class c that an experience has brought.
        3. Kim et al. learn their base session by cross-entropy; here LDAM is for every experience.
        4. Weights stay from pass `defer` on, however many follow; Kim et al.'s code ends at 640.
    """
    return chain(Normalised(), GrowingHead(), Margins(margin, scale, defer, beta))
