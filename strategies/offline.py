"""Offline training: one experience with everything."""

from __future__ import annotations

from clbench import Data, Experience, Strategy, Stream, chain, register
from clbench.parts import CrossEntropy


class AllAtOnce(Strategy):
    """The whole stream as a single experience."""

    needs = frozenset({"past data"})
    parallel = True

    def stream(self, train: Stream) -> Stream:
        classes = tuple(sorted({c for exp in train for c in exp.classes}))
        tests = tuple(t for exp in train for t in exp.tests)
        everything = Data.union([exp.data for exp in train])
        return Stream(train.name, (Experience(0, classes, everything, tests=tests),))


@register("offline", family="bounds")
def offline() -> Strategy:
    """Trains once, on the shuffled data of the whole stream: what the model reaches without a stream at all.

    Also called i.i.d. or multi-task training.
    """
    return chain(AllAtOnce(), CrossEntropy())
