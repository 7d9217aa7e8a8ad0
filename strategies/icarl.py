"""Incremental Classifier and Representation Learning (iCaRL).

Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017, arXiv:1611.07725.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Run, Strategy, register
from clbench.memory import Chosen
from clbench.parts import CrossEntropy, binary_loss, expect_examples, nearness
from clbench.ranges import Natural
from clbench.types import MASKED


class NearestMean(Strategy):
    """Binary cross-entropy with soft targets for old classes, exemplars chosen by herding, nearest class
    mean.

    `fit` is the mean over rows and seen classes of BCE(output, target), with target σ(output of the last
    experience's model) for classes seen only before, and 1 or 0 for the present ones.
    """

    replaces = (CrossEntropy,)  # the labels are learned here
    needs = frozenset({"memory", "boundaries"})
    state = ("memory", "teacher", "seen", "old", "settled", "size", "given", "dealt", "deck")
    parallel = True

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.teacher: nn.Module | None = None
        self.settled = False  # between experiences, when seen classes have their exemplars
        self.size = self.given = self.dealt = 0  # rows of the experience; rows and exemplars that have come
        self.means: Tensor | None = None  # (C, D), as long as the model stays as it is

    def setup(self, run: Run) -> None:
        self.memory = Chosen(self.capacity)
        expect_examples(self.memory, run)
        self.seen = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)  # (C,) also at present
        self.old = torch.zeros_like(self.seen)  # (C,) before, and not at present
        self.deck = torch.zeros(0, dtype=torch.int64, device=run.device)  # (M,) order of this pass

    def begin_experience(self, exp: Experience) -> None:
        present = torch.zeros_like(self.seen)
        present[list(exp.classes)] = True
        self.old = self.seen & ~present
        self.seen = self.seen | present
        self.settled, self.means = False, None
        self.size, self.given, self.dealt = len(exp), 0, 0
        self.deck = self._shuffled()

    def _shuffled(self) -> Tensor:
        rng = self.run.rng("replay")
        return torch.randperm(len(self.memory), generator=rng, device=rng.device)

    def extend(self, batch: Batch) -> Batch:
        """Add as many of the M exemplars as keep pace with the stream: each comes once in a pass over N rows."""
        held = len(self.memory)
        self.given += batch.new
        n = self.given * held // self.size - self.dealt
        if n == 0:
            return batch
        start = self.dealt % held
        chosen = self.deck[start : start + n]
        if start + n >= held:
            self.deck = self._shuffled()
            chosen = torch.cat([chosen, self.deck[: start + n - held]])
        self.dealt += n
        x, y, task = (self.memory[name].index_select(0, chosen) for name in ("x", "y", "task"))
        return batch.join(self.run.augment(x), y, task, x)

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        # Without task labels: outputs of other tasks' classes are what is distilled.
        told = self.run.benchmark.setting.task_labels != "never"
        logits = self.run.logits(out.features) if told else out.logits
        teacher = None if self.teacher is None else self.run.output_of(self.teacher, batch.x).logits
        return {"fit": binary_loss(logits, batch.y, self.seen, self.old, teacher)}

    def end_experience(self, exp: Experience) -> None:
        with self.run.evaluating(), torch.no_grad():
            self._choose(exp)
        self.teacher, self.old = self.run.frozen(), self.seen
        self.settled, self.means = True, None

    def _choose(self, exp: Experience) -> None:
        """Choose exemplars anew: the first of each old class, and of each present one those that herding chooses."""
        labels = exp.data.y()
        present = sorted(set(labels.tolist()))
        each = self.capacity // int(self.seen.sum())
        if each == 0:  # no class can have one, so that none has: means of some would be no rule for all
            self.memory.clear()
            return
        features = torch.cat([self.run.forward(x).features for x, _ in self.run.visit(exp.data)])  # (N, D)
        none = torch.zeros(0, dtype=torch.int64, device=self.run.device)
        held = self.memory["y"] if len(self.memory) else none
        kept: list[dict[str, Tensor]] = []
        for c in held.unique().tolist():
            if c not in present:
                rows = (held == c).nonzero().squeeze(1)[:each]
                kept.append({name: self.memory[name][rows] for name in ("x", "y", "task")})
        for c in present:
            rows = (labels == c).nonzero().squeeze(1)
            candidates, before = features[rows.to(features.device)], (held == c).nonzero().squeeze(1)
            if len(before):  # a class that comes again: its exemplars stand as candidates once more
                candidates = torch.cat([candidates, self._features(self.memory["x"][before])])
            chosen = herd(candidates, each)
            raw, y = exp.data.take(rows)
            x, y = raw.to(self.run.device), y.to(self.run.device)
            task = torch.full_like(y, exp.task)
            if len(before):
                x, y = torch.cat([x, self.memory["x"][before]]), torch.cat([y, held[before]])
                task = torch.cat([task, self.memory["task"][before]])
            kept.append({"x": x[chosen], "y": y[chosen], "task": task[chosen]})
        self.memory.keep(**{name: torch.cat([rows[name] for rows in kept]) for name in ("x", "y", "task")})

    def _features(self, raw: Tensor) -> Tensor:
        """(M, D) features of raw inputs, not augmented."""
        parts = raw.split(self.run.batch_size)
        return torch.cat([self.run.forward(self.run.normalise(part)).features for part in parts])

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        out = self.run.forward(x, task)
        if self.size == 0:  # nothing has been taught
            return out.logits
        if not self.settled or len(self.memory) == 0:
            return out.logits.masked_fill(~self.seen, MASKED)
        held = self.memory["y"]
        if self.means is None:
            self.means = class_means(self._features(self.memory["x"]), held, self.run.num_classes)
        # A seen class may have no exemplars where an experience names it and brings none of it.
        known = torch.zeros_like(self.seen).index_fill(0, held, True)
        return self.run.mask_tasks(nearness(out.features, self.means, known), task)


def herd(features: Tensor, n: int) -> Tensor:
    """Return ≤ n rows of features (N, D) such that the mean of the first k of them is always near the mean of all.

    Greedy: the k-th row minimises ‖μ − (φ + Σ of those chosen) / k‖.
    """
    mean, total = features.mean(0), torch.zeros_like(features[0])
    taken = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    chosen: list[Tensor] = []
    for k in range(1, min(n, len(features)) + 1):
        distance = (mean - (features + total) / k).norm(dim=1).masked_fill(taken, torch.inf)
        best = distance.argmin(0, keepdim=True)
        chosen.append(best)
        total = total + features[best].squeeze(0)
        taken = taken.index_fill(0, best, True)
    return torch.cat(chosen)


def class_means(features: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """(C, D) the mean of each class's features (M, D); 0 for classes without any."""
    member = F.one_hot(y, num_classes).to(features.dtype)  # (M, C)
    return (member.T @ features) / member.sum(0).clamp(min=1).unsqueeze(1)


@register("icarl", family="replay", version=2, paper="arXiv:1611.07725")
def icarl(memory: Natural = 200) -> Strategy:
    """iCaRL: exemplars chosen by herding, sigmoids taught by labels and the last model, nearest class mean.

    L = mean over rows and seen classes of BCE(f(x), t), t the label for present classes and σ(f_old(x)) for
    past ones, with f_old the model at the end of the last experience. At the end of an experience, each of
    the C_seen classes keeps ⌊M / C_seen⌋ exemplars: old classes their first, new ones those that herding
    chooses. The class whose exemplars' mean feature is nearest wins.

    Args:
        memory: M, exemplars of all classes together.

    Reference: Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017,
    arXiv:1611.07725.

    Differences from the paper:
        1. Features are not normalised, neither in herding nor in classification, as in widely used code.
        2. The exemplars are not merged into an experience's data, which would lengthen its passes: they are
           dealt out over the batches of a pass, each once, so that batches grow instead.
        3. Until an experience ends its classes have no exemplars, and the model's outputs for seen classes
           decide.
        4. A class that comes again is taught by labels, and its exemplars are chosen among the old and the
           new examples.
        5. The paper has at least as many exemplars as classes. With less memory than that, ⌊M / C_seen⌋ = 0, the memory
           is emptied, and outputs for seen classes decide from then on.
    """
    return NearestMean(memory)
