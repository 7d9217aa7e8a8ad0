"""Dual-stage mixed fine-tuning (DMT).

Dong et al., "How Abilities in Large Language Models are Affected by Supervised Fine-tuning Data Composition", ACL 2024,
arXiv:2310.05492.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from clbench import Data, Experience, Strategy, Stream, chain, register
from clbench.errors import IncompatibleError
from clbench.parts import CrossEntropy, at_once
from clbench.ranges import Count, Share


class TwoStages(Strategy):
    """The stream in two experiences: all specialised sets; then the general ones with a fixed sample of these."""

    needs = frozenset({"past data"})
    parallel = True
    language = True

    def __init__(self, share: float, specialised: int | None) -> None:
        self.share, self.specialised = share, specialised

    def stream(self, train: Stream) -> Stream:
        n = len(train) - 1 if self.specialised is None else self.specialised
        if len(train) == 1 and self.specialised is None:
            return train
        if n >= len(train):
            raise IncompatibleError(
                f"dmt learns {n} specialised experiences first and general ones after them; the stream has "
                f"{len(train)}. Set specialised={len(train) - 1} or less, or leave it out."
            )
        first = self._stage(train.experiences[:n], 0)
        second = self._stage(train.experiences[n:], 1)
        return Stream(train.name, (first, self._mixed(second, first)))

    def _stage(self, experiences: tuple[Experience, ...], index: int) -> Experience:
        """Return some experiences as one; a single one keeps its order, its task and its domain."""
        if len(experiences) == 1:
            return replace(experiences[0], index=index)
        return at_once(experiences, index)

    def _mixed(self, general: Experience, special: Experience) -> Experience:
        rng = self.run.rng("dmt")
        n = int(self.share * len(special) + 0.5)
        if n == 0:
            return general
        rows = torch.randperm(len(special), generator=rng, device=rng.device)[:n].sort().values.to("cpu")
        data = Data.union([general.data, special.data.subset(rows)])
        classes = tuple(sorted({*general.classes, *special.classes}))
        return replace(general, classes=classes, data=data, documents=None, ordered=False)


@register("dmt", family="mixtures", paper="arXiv:2310.05492", tiny={"share": 0.125})
def dmt(share: Share = 1 / 256, specialised: Count | None = None) -> Strategy:
    """Dual-stage mixed fine-tuning: first all specialised sets at once, then general data with a small part of them.

    Stage 1 learns the first experiences as one, shuffled together. Stage 2 learns the others as one, with ⌊k·n + ½⌋ of
    the n rows of stage 1, drawn once by the run's seed and the same in every pass. k = 0 is sequential training, on two
    experiences that of `finetune` to the bit; k = 1 replays all. More rows are more steps at equal epochs; set
    `train.iterations` for equal ones.

    Args:
        share: k.
        specialised: experiences of stage 1; all but the last if none is given.

    Reference: Dong et al., "How Abilities in Large Language Models are Affected by Supervised Fine-tuning Data
    Composition", ACL 2024, arXiv:2310.05492. They recommend k = 1/256.

    Differences from the paper:
        1. In streams with task labels, a stage of several experiences has none, and the second stage has that of the
           general experience.
    """
    return chain(TwoStages(share, specialised), CrossEntropy())
