"""Gradient Episodic Memory (GEM).

Lopez-Paz & Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, arXiv:1706.08840.
"""

from __future__ import annotations

from clbench import Strategy, chain, register
from clbench.parts import CrossEntropy, Episodes, ProjectEach
from clbench.ranges import Natural, NotNegative


@register("gem", family="projection", version=2, paper="arXiv:1706.08840", null={"memory": 0})
def gem(memory: Natural = 200, margin: NotNegative = 0.5, first: bool = False) -> Strategy:
    """GEM: no step may raise the loss of any past experience, judged by all examples that are stored of it.

    With g the gradient of the step and G_i that of experience i's examples: where any ⟨G_i, g⟩ < 0, the step is taken
    along g + Gᵀv, v = argmin ½ vᵀ(GGᵀ + 10⁻³ I)v + (Gg)ᵀv subject to v_i ≥ γ. The stored examples are not learned from.

    Args:
        memory: examples of all experiences together, in equal shares. With fewer examples than experiences, the first
            experiences have one each, and later ones constrain nothing.
        margin: γ, what every v_i is at least; a positive one favours past experiences.
        first: keep an experience's first examples, as the authors do, and not random ones. Where classes come one
            after the other in a data set, the first examples are of one class.

    Reference: Lopez-Paz & Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, arXiv:1706.08840.

    Differences from the paper:
        1. 10⁻³ is added to the diagonal of GGᵀ, and v_i ≥ γ takes the place of the constraint's margin, both as in the
           authors' code.
        2. The quadratic program, of as many unknowns as there are past experiences, is solved exactly on the CPU, as a
           problem of non-negative least squares (`scipy.optimize.nnls`). A step in which no constraint is violated
           waits for the device, too, since that is what it asks for.
        3. An experience's examples are chosen when it ends, at random unless `first` is given.
        4. Passes over the memory are in training mode and come before the stream's, as in the authors' code:
           BatchNorm statistics see past experiences, too.
    """
    episodes = Episodes(memory, first)
    return chain(CrossEntropy(), episodes, ProjectEach(episodes, margin))
