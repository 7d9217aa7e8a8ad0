"""Averaged Gradient Episodic Memory (A-GEM).

Chaudhry et al., "Efficient Lifelong Learning with A-GEM", ICLR 2019, arXiv:1812.00420.
"""

from __future__ import annotations

from clbench import Strategy, chain, register
from clbench.parts import CrossEntropy, Episodes, ProjectAveraged
from clbench.ranges import Natural


@register("a-gem", family="projection", version=2, paper="arXiv:1812.00420", null={"memory": 0})
def a_gem(memory: Natural = 200, draw: Natural | None = None, first: bool = False) -> Strategy:
    """A-GEM: no step may raise the average loss of past experiences, judged by one batch of their examples.

    Where the gradient g of the step and that of the memory, g_ref, point apart, ⟨g, g_ref⟩ < 0, the step is taken along
    g − (⟨g, g_ref⟩ / (‖g_ref‖² + 10⁻⁷)) g_ref. The stored examples are not learned from.

    Args:
        memory: examples of all experiences together, in equal shares. With fewer examples than experiences, the first
            experiences have one each, and later ones constrain nothing.
        draw: stored examples, of all past experiences alike, that g_ref is taken on; as many as the stream brings if
            none is given.
        first: keep an experience's first examples, as GEM's authors do, and not random ones.

    Reference: Chaudhry et al., "Efficient Lifelong Learning with A-GEM", ICLR 2019, arXiv:1812.00420.

    Differences from the paper:
        1. 10⁻⁷ is added to ‖g_ref‖², as in the code of Hess et al. (arXiv:2311.04898): a gradient may be zero.
        2. An experience's examples are chosen when it ends. They are not used before then in the paper, either.
        3. The shares are of experiences and not of their classes.
        4. The pass over the memory is in training mode and comes before the stream's, as in the code of Hess et al.:
           BatchNorm statistics see past experiences, too.
    """
    episodes = Episodes(memory, first)
    return chain(CrossEntropy(), episodes, ProjectAveraged(episodes, draw))
