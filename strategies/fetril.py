"""FeTrIL: features of old classes are those of new ones, moved to the old means.

Petit, Popescu, Schindler, Picard, Delezoide, "FeTrIL: Feature Translation for Exemplar-Free Class-Incremental
Learning", WACV 2023, arXiv:2211.13131.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.parts import ClassSums, CrossEntropy, SettleAfterFirst, TrainOnly, features_of, refuse_steps
from clbench.ranges import Count, Positive
from clbench.types import HIDDEN, MASKED


def donors(old: Tensor, new: Tensor) -> Tensor:
    """(O,) for each old mean (O, D) the nearest of the new means (N, D), by its cosine."""
    return (F.normalize(old, dim=1) @ F.normalize(new, dim=1).T).argmax(1)


def translated(features: Tensor, mean: Tensor, to: Tensor) -> Tensor:
    """(n, D) features of a class with this mean (D,), moved so that it is `to` (D,)."""
    return features - mean + to


class Translated(Strategy):
    """At an experience's end, the head is trained on features of its classes, and on translated ones for others.

    Args:
        epochs: passes over these. lr: at the start; it falls along a cosine. batch_size: of them.
        adapt: that the network learns the first experience before.
    """

    needs = frozenset({"boundaries"})
    replaces = (CrossEntropy,)
    state = ("classes", "fitted")
    parallel = True

    def __init__(self, epochs: int, lr: float, batch_size: int, adapt: bool) -> None:
        self.epochs, self.lr, self.batch_size, self.adapt = epochs, lr, batch_size, adapt

    def setup(self, run: Run) -> None:
        refuse_steps(run, self)
        self.classes = ClassSums(run.num_classes, run.model.feature_size).to(run.device)  # type: ignore[arg-type]
        self.fitted = False
        self._fitting = False

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if self._fitting:
            return {"fit": F.cross_entropy(out.logits.masked_fill(~self.classes.known, MASKED), batch.y)}
        return {"adapt": F.cross_entropy(out.logits, batch.y)} if self.adapt and not self.fitted else {}

    def end_experience(self, exp: Experience) -> None:
        features, y = features_of(self.run, exp.data)
        old = (
            self.classes.known & ~torch.isin(torch.arange(len(self.classes.counts), device=y.device), y)
        ).nonzero()
        self.classes.add(features, y)
        means, new, old = self.classes.means().float(), y.unique(), old.squeeze(1)
        xs, ys = [features], [y]
        if len(old):
            for c, donor in zip(old.tolist(), new[donors(means[old], means[new])].tolist(), strict=True):
                own = features[y == donor]
                xs.append(translated(own, own.mean(0), means[c]))
                ys.append(torch.full_like(y[: len(own)], c))
        self._rows = F.normalize(torch.cat(xs), dim=1), torch.cat(ys)
        self._fitting = True
        try:
            self.run.optimise(self._batches, self.epochs, self._rate, features=True, momentum=0.9)
        finally:
            self._fitting = False
            del self._rows
        self.fitted = True

    def _rate(self, epoch: int) -> float:
        return self.lr * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        x, y = self._rows
        order = torch.randperm(len(y), generator=self.run.rng("translated"), device=y.device)
        for rows in order.split(self.batch_size):
            yield x[rows], y[rows], torch.full_like(rows, HIDDEN)

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        out = self.run.forward(x, task)
        if not self.fitted:
            return out.logits
        scores = self.run.logits(F.normalize(out.features, dim=1))
        return self.run.mask_tasks(scores.masked_fill(~self.classes.known, MASKED), task)


@register("fetril", family="fixed features", paper="arXiv:2211.13131", tiny={"lr": 0.5})
def fetril(epochs: Count = 50, lr: Positive = 0.05, batch_size: Count = 128, adapt: bool = False) -> Strategy:
    """FeTrIL: a linear head on features that stay as they are, which for old classes are made from those of new ones.

    Of each class its mean is kept. At an experience's end, the new class with the most similar mean lends its features
    to an old one: they are moved to the old mean, and the head learns from them beside the new classes' own.

    Args:
        epochs: passes of the head's training, at each experience's end.
        lr: its learning rate, which falls along a cosine from pass to pass.
        batch_size: features in a batch of it.
        adapt: train the whole network on the first experience, with the run's optimizer; it stays as it is afterwards.

    Reference: Petit, Popescu, Schindler, Picard, Delezoide, "FeTrIL: Feature Translation for Exemplar-Free
    Class-Incremental Learning", WACV 2023, arXiv:2211.13131.

    Differences from the authors' code:
        1. The head is the linear one, trained by gradients (their FeTrIL-fc), and no support vector machine.
        2. It goes on from where it was, in place of beginning anew; means are most similar by their cosine, as in the
           paper, where the code takes the distance.
        3. The backbone is pretrained, unless it is adapted: theirs learns half of the classes first.
    """
    head = Translated(epochs, lr, batch_size, adapt)
    return chain(SettleAfterFirst(), head) if adapt else chain(TrainOnly("head"), head)
