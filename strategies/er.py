"""Experience replay (ER).

Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019, arXiv:1902.10486.
"""

from __future__ import annotations

from clbench import Strategy, chain, register
from clbench.parts import CrossEntropy, Replay
from clbench.ranges import Natural


@register("er", family="replay", paper="arXiv:1902.10486", null={"draw": 0})
def er(memory: Natural = 200, draw: Natural | None = None) -> Strategy:
    """Experience replay: examples from a reservoir join every batch of the stream.

    The loss is the mean cross-entropy over stream and replayed examples together, in one forward pass.

    Args:
        memory: examples the reservoir holds.
        draw: examples that join a batch; as many as the stream brings if none is given.

    Reference: Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019, arXiv:1902.10486.
    """
    return chain(Replay(memory, draw), CrossEntropy())
