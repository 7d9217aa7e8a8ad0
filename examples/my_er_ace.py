"""A strategy of one's own: experience replay with an asymmetric cross-entropy (ER-ACE).

clbench run split-digits my-er-ace --plugin examples/my_er_ace.py memory=100
clbench check my-er-ace --plugin examples/my_er_ace.py
"""

from torch.nn import functional as F

from clbench import Strategy, chain, register
from clbench.parts import Replay
from clbench.ranges import Natural
from clbench.types import MASKED


class AsymmetricCrossEntropy(Strategy):
    """Incoming examples compete only with the classes of their own batch, replayed ones with every class.

    New classes then cannot push the logits of old ones down, which is what makes old features jump at a boundary.
    """

    def losses(self, batch, out):
        n = batch.new  # the first n rows come from the stream, the others from the memory
        present = F.one_hot(batch.y[:n], self.run.num_classes).amax(0).bool()  # (C,)
        incoming = out.logits[:n].masked_fill(~present, MASKED)  # (n, C)
        losses = {"new": F.cross_entropy(incoming, batch.y[:n])}
        if len(batch) > n:
            losses["old"] = F.cross_entropy(out.logits[n:], batch.y[n:])
        return losses


@register("my-er-ace", paper="arXiv:2104.05025")
def my_er_ace(memory: Natural = 200) -> Strategy:
    """ER-ACE: replay in which new examples compete only with the classes they came with.

    Reference: Caccia et al., "New Insights on Reducing Abrupt Representation Change in Online Continual Learning",
    ICLR 2022, arXiv:2104.05025.
    """
    return chain(Replay(memory), AsymmetricCrossEntropy())
