"""Replay of classes by how often they have come.

Lesort et al., "Challenging Common Assumptions about Catastrophic Forgetting and Knowledge Accumulation", CoLLAs 2023,
arXiv:2207.04543.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.memory import Chosen
from clbench.parts import CrossEntropy
from clbench.ranges import Natural, Share
from clbench.types import MASKED

Choice = Literal["frequency", "random"]
TRIGGER = 3
"""Times that a class has come, or was replayed, before it may be replayed."""
LEAST = 20
"""At least 1 / so many of a class's stored examples are renewed when it comes again."""


class FrequencyReplay(Strategy):
    """Stored examples of whole classes join the experience, as if it had brought them.

    Attributes:
        counts: (C,) experiences that had each class, or replayed it.
        taught: (C,) bool, the classes of the experience and those that are replayed in it.
    """

    needs = frozenset({"memory", "boundaries"})
    state = ("memory", "counts", "experiences", "taught", "deck", "size", "given")
    parallel = True
    exempt: ClassVar = {"takes_effect": "no class comes three times before the end of so short a stream"}

    def __init__(self, per_class: int, choose: Choice, low: float, high: float, budget: float) -> None:
        self.per_class, self.choose, self.low, self.high, self.budget = per_class, choose, low, high, budget
        self.experiences = self.size = self.given = 0

    def setup(self, run: Run) -> None:
        self.memory = Chosen(self.per_class * run.num_classes)
        self.counts = [0] * run.num_classes
        self.taught = torch.zeros(run.num_classes, dtype=torch.bool, device=run.device)
        self.deck = torch.zeros(0, dtype=torch.int64, device=run.device)  # (R,) rows that are replayed

    def begin_experience(self, exp: Experience) -> None:
        if self.choose == "frequency":
            again = rarest(self.counts, self.experiences, exp.classes, self.low, self.high)
        else:
            again = self._drawn(exp.classes)
        self.taught = torch.zeros_like(self.taught)
        self.taught[[*exp.classes, *again]] = True
        self.size, self.given = len(exp), 0
        self.deck = self.deck[:0]
        if len(self.memory) and again:
            rng, held = self.run.rng("replay"), self.memory["y"]
            rows = torch.isin(held, held.new_tensor(again)).nonzero().squeeze(1)
            self.deck = rows[torch.randperm(len(rows), generator=rng, device=rng.device)]

    def _drawn(self, present: Sequence[int]) -> list[int]:
        """Classes that have come, each of as many places as the experience has classes filled with the budget."""
        seen = [c for c, n in enumerate(self.counts) if n and c not in present]
        rng = self.run.rng("classes")
        places = int((torch.rand(len(present), generator=rng, device=rng.device) < self.budget).sum())
        order = torch.randperm(len(seen), generator=rng, device=rng.device)[:places]
        return [seen[i] for i in order.tolist()]

    def extend(self, batch: Batch) -> Batch:
        """Add as many of the R rows as keep pace with the stream: each comes once in a pass."""
        held = len(self.deck)
        start, self.given = self.given * held // self.size, self.given + batch.new
        stop = self.given * held // self.size
        if start == stop:
            return batch
        chosen = self.deck[torch.arange(start, stop, device=self.deck.device) % held]
        x, y, task = (self.memory[name].index_select(0, chosen) for name in ("x", "y", "task"))
        return batch.join(self.run.augment(x), y, task, x)

    def end_experience(self, exp: Experience) -> None:
        if self.per_class:
            self._store(exp)
        self.experiences += 1
        for c in self.taught.nonzero().squeeze(1).tolist():
            self.counts[c] += 1

    def _store(self, exp: Experience) -> None:
        """Store examples of the classes that came: of a new one M, in place of M / (times it came + 1) of another."""
        rng, labels = self.run.rng("memory"), exp.data.y().to(self.run.device)
        kept: list[dict[str, Tensor]] = []
        held = self.memory["y"] if len(self.memory) else labels[:0]
        stays = torch.ones_like(held, dtype=torch.bool)
        for c in exp.classes:
            rows, before = (labels == c).nonzero().squeeze(1), (held == c).nonzero().squeeze(1)
            n = min(renewed(self.per_class, self.counts[c]), len(rows))
            chosen = rows[torch.randperm(len(rows), generator=rng, device=rng.device)[:n]]
            raw, y = exp.data.take(chosen.to("cpu"))
            x, y = raw.to(self.run.device), y.to(self.run.device)
            kept.append({"x": x, "y": y, "task": torch.full_like(y, exp.task)})
            gone = max(len(before) + n - self.per_class, 0)
            stays[before[torch.randperm(len(before), generator=rng, device=rng.device)[:gone]]] = False
        if len(held):
            kept.insert(0, {name: self.memory[name][stays] for name in ("x", "y", "task")})
        self.memory.keep(**{name: torch.cat([part[name] for part in kept]) for name in ("x", "y", "task")})


class MaskedCrossEntropy(Strategy):
    """Mean cross-entropy over the classes of the experience and those that are replayed in it: loss `fit`."""

    replaces = (CrossEntropy,)
    parallel = True

    def __init__(self, replay: FrequencyReplay) -> None:
        self.replay = replay

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        return {"fit": F.cross_entropy(out.logits.masked_fill(~self.replay.taught, MASKED), batch.y)}


def rarest(
    counts: Sequence[int], experiences: int, present: Sequence[int], low: float, high: float
) -> list[int]:
    """Return the rarest classes with a frequency count / experiences in (low, high], as many as are present, without
    these and without those that came fewer than `TRIGGER` times; of equal ones the first."""
    order = sorted((n, c) for c, n in enumerate(counts) if n >= TRIGGER and c not in present)
    return [c for n, c in order if low < n / experiences <= high][: len(present)]


def renewed(per_class: int, times: int) -> int:
    """Return how many examples of a class are stored when it comes, having come so many times before."""
    return per_class if not times else max(per_class // (times + 1), per_class // LEAST)


@register(
    "frequency-replay",
    family="replay",
    paper="arXiv:2207.04543",
    null={"per_class": 0},
)
def frequency_replay(
    per_class: Natural = 200,
    choose: Choice = "frequency",
    low: Share = 0.01,
    high: Share = 0.1,
    budget: Share = 1.0,
    loss: Literal["softmax", "masked"] = "softmax",
) -> Strategy:
    """Replays whole classes where classes come back: of those that came least often, all that is kept joins a stream.

    A class's frequency is the share of experiences so far that had it or replayed it. Of those in (low, high] that came
    three times or more, the rarest are replayed, as many as the experience has classes. When a class comes for the n-th
    time, ⌊M / n⌋ of its M stored examples are renewed, ⌊M / 20⌋ at least.

    Args:
        per_class: M, the examples kept of each class.
        choose: by frequency; or random, each of these places filled with the probability `budget`, by classes drawn of
            those that came.
        low, high: frequencies between which a class is replayed.
        budget: of random.
        loss: softmax, over all classes; masked, over the classes of the experience and those replayed in it. The model
            is evaluated over all classes with either.

    Reference: Lesort et al., "Challenging Common Assumptions about Catastrophic Forgetting and Knowledge Accumulation",
    CoLLAs 2023, arXiv:2207.04543.

    Differences from the authors' code:
        1. Replayed examples are spread over the batches of the stream, which get larger; there, they are shuffled into
           the experience, which gets longer.
        2. The mask is of the experience; there, of each batch's labels.
        3. The variant in which a class counts by its validation accuracy is left out.
    """
    replay = FrequencyReplay(per_class, choose, low, high, budget)
    return chain(replay, MaskedCrossEntropy(replay) if loss == "masked" else CrossEntropy())
