"""Incremental joint training: the upper bound that still meets one experience after another."""

from __future__ import annotations

from dataclasses import replace

from clbench import Data, Experience, Strategy, Stream, chain, register
from clbench.parts import CrossEntropy


class PastData(Strategy):
    """Every experience brings the data of all experiences so far."""

    needs = frozenset({"past data"})
    parallel = True
    language = True

    def stream(self, train: Stream) -> Stream:
        return Stream(train.name, tuple(self._so_far(train.experiences[: exp.index + 1]) for exp in train))

    def _so_far(self, seen: tuple[Experience, ...]) -> Experience:
        classes = tuple(sorted({c for exp in seen for c in exp.classes}))
        data = Data.union([exp.data for exp in seen])
        return replace(seen[-1], classes=classes, data=data, documents=None, ordered=False)


@register("joint", family="bounds")
def joint() -> Strategy:
    """Trains, at every experience, on the data of all experiences so far: the upper bound with a stability gap.

    It forgets nothing at experience ends, and yet its accuracy on old data dips right after a new experience begins,
    which only evaluation at every iteration shows.

    Reference: De Lange, van de Ven, Tuytelaars, "Continual evaluation for lifelong learning: Identifying the stability
    gap", ICLR 2023, arXiv:2205.13452.

    An experience's epochs run over more data from one to the next; set `train.iterations` for equal numbers of steps.
    """
    return chain(PastData(), CrossEntropy())
