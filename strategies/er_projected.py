"""Experience replay with projected gradients.

Hess, Tuytelaars, van de Ven, "Two Complementary Perspectives to Continual Learning: Ask Not Only What to Optimize, But
Also How", 2023, arXiv:2311.04898.
"""

from __future__ import annotations

from typing import Literal

from clbench import Batch, Strategy, chain, register
from clbench.parts import CrossEntropy, Episodes, ProjectAveraged, ProjectEach, Replay
from clbench.ranges import Natural, NotNegative


class Recall(Strategy):
    """Examples of past experiences join every batch."""

    parallel = True
    language = True

    def __init__(self, episodes: Episodes, draw: int | None) -> None:
        self.episodes, self.draw = episodes, draw

    def extend(self, batch: Batch) -> Batch:
        memory = self.episodes.memory
        n = min(batch.new if self.draw is None else self.draw, len(memory))
        if n == 0:
            return batch
        old = memory.draw(n, self.run.rng("replay"))
        return batch.join(self.run.augment(old["x"]), old["y"], old["task"], old["x"])


@register("er-projected", family="projection", version=2, paper="arXiv:2311.04898", null={"memory": 0})
def er_projected(
    memory: Natural = 200,
    draw: Natural | None = None,
    rule: Literal["a-gem", "gem"] = "a-gem",
    margin: NotNegative = 0.5,
    reference: Literal["drawn", "replayed"] = "drawn",
) -> Strategy:
    """Replay with projected gradients: the loss of replay, stepped down so that the memory's loss does not rise.

    Replay changes what is minimised, a projection how: the gradient of the loss over stream and replayed examples
    together is projected as in A-GEM or GEM where it points against the memory's. The memory's gradient is taken after
    the step's pass, and BatchNorm layers use their running statistics for it and leave them alone.

    Args:
        memory: examples it holds.
        draw: examples that join a batch, and, in A-GEM's rule, examples of a second draw on which the memory's gradient
            is taken; as many as the stream brings if none is given.
        rule: A-GEM's, with a reservoir; or GEM's, one constraint for each past experience, which needs boundaries and
            an equal share of the memory for each.
        margin: γ of GEM's rule.
        reference: in A-GEM's rule, the examples of the memory's gradient: a second draw, or the replayed ones of the
            batch, as in the authors' code.

    Reference: Hess, Tuytelaars, van de Ven, "Two Complementary Perspectives to Continual Learning: Ask Not Only What to
    Optimize, But Also How", 2023, arXiv:2311.04898.

    Differences from the paper:
        1. Stream and replayed examples weigh alike in one mean; with A-GEM's rule, examples of the present experience
           enter the memory as they come.
        2. With A-GEM's rule, the memory's gradient is taken on a second draw unless `reference=replayed` is given: what
           has just been learned from says less of the memory's loss.
        3. GEM's rule differs as `gem` does: solved exactly on the CPU; an experience's examples are drawn at its end.
           The gradients of past experiences are of all that is stored of each, and of all parameters; the authors' code
           draws a batch of each, and leaves out scales and offsets of BatchNorm.

    To project the gradient of any other strategy, chain it: `derpp+a-gem`, with a memory of its own.
    """
    if rule == "a-gem":
        replay = Replay(memory, draw)
        projection = ProjectAveraged(replay, draw if reference == "drawn" else reference, running=True)
        return chain(replay, CrossEntropy(), projection)
    episodes = Episodes(memory)
    return chain(
        episodes, Recall(episodes, draw), CrossEntropy(), ProjectEach(episodes, margin, running=True)
    )
