"""Mixtures of domains: how much of each the next batches hold, and the laws by which that is chosen."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from clbench.machine.checkpoint import tree_map
from clbench.strategy import Run, State, Strategy
from clbench.types import Data, Experience, Stream


class AllAtOnce(Strategy):
    """The whole stream as a single experience."""

    needs: ClassVar = frozenset({"past data"})
    parallel = True
    language = True

    def stream(self, train: Stream) -> Stream:
        return Stream(train.name, (at_once(train.experiences, 0),))


def at_once(experiences: Sequence[Experience], index: int) -> Experience:
    """Return all of some experiences as one, that all their test experiences measure."""
    classes = tuple(sorted({c for exp in experiences for c in exp.classes}))
    tests = tuple(t for exp in experiences for t in exp.tests)
    return Experience(index, classes, Data.union([exp.data for exp in experiences]), tests=tests)


class Mixture(AllAtOnce):
    """All experiences at once, as groups from which batches are drawn by probabilities that change.

    Subclasses say by `next_round` for how many steps the next probabilities hold. Some rows of each group, a random
    choice, are held out: they are never trained on, and `losses_of_groups` measures the model on them. A group's other
    rows come in random order and all come before one comes again.

    Args:
        held: rows of each group that are held out; half of it at most.

    Attributes:
        queues: (n_j,) rows of each group that are trained on, in the present order; places: how many of it have come.
        p: (k,) float64, on the CPU, the present probabilities.
    """

    state: ClassVar[tuple[str, ...]] = ("queues", "places", "p")
    parallel = True
    language = True

    def __init__(self, held: int) -> None:
        self.aside = held

    def stream(self, train: Stream) -> Stream:
        self.sizes = [len(exp) for exp in train]
        return super().stream(train)

    def setup(self, run: Run) -> None:
        data, starts = run.train[0].data, itertools.accumulate([0, *self.sizes[:-1]])
        self.queues: list[Tensor] = []
        self.measured: list[Data] = []
        for start, n in zip(starts, self.sizes, strict=True):
            rows = start + self._shuffled(n)
            out = min(self.aside, n // 2)
            self.queues.append(rows[out:])
            # of a group with a single row, this one
            self.measured.append(data.subset(rows[: max(out, 1)].sort().values))
        self.places = [0] * len(self.sizes)
        self.p = torch.full((len(self.sizes),), 1 / len(self.sizes), dtype=torch.float64)

    def _shuffled(self, n: int) -> Tensor:
        rng = self.run.rng("mixture rows")
        return torch.randperm(n, generator=rng, device=rng.device).cpu()

    def draw(self, rows: int, p: Tensor) -> Tensor:
        """(rows,) rows of the union, each of a group drawn by p (k,)."""
        rng = self.run.rng("mixture")
        group = torch.multinomial(p.to(rng.device), rows, replacement=True, generator=rng).cpu()
        drawn = torch.empty(rows, dtype=torch.int64)
        for j in range(len(self.queues)):
            at = (group == j).nonzero().squeeze(1)
            drawn[at] = self._next(j, len(at))
        return drawn

    def _next(self, j: int, n: int) -> Tensor:
        """(n,) the next rows of a group."""
        found: list[Tensor] = [self.queues[j][:0]]
        while n:
            if self.places[j] == len(self.queues[j]):
                self.queues[j] = self.queues[j][self._shuffled(len(self.queues[j]))]
                self.places[j] = 0
            part = self.queues[j][self.places[j] : self.places[j] + n]
            self.places[j] += len(part)
            n -= len(part)
            found.append(part)
        return torch.cat(found)

    def load_state_dict(self, state: State) -> None:
        """Take `state` back, and leave it on the CPU, where rows are drawn."""
        super().load_state_dict(state)
        for name in self.state:
            setattr(self, name, tree_map(lambda tensor: tensor.cpu(), getattr(self, name)))

    def losses_of_groups(self) -> Tensor:
        """(k,) float64, the mean loss over each group's held-out rows, or their tokens; counted as forward passes."""
        run = self.run
        found = []
        with torch.no_grad(), run.evaluating():
            for data in self.measured:
                total = torch.zeros((), dtype=torch.float64, device=run.device)
                counted = torch.zeros_like(total)
                for x, y in run.visit(data):
                    labels = (y >= 0).sum()
                    total += run.output_of(run.model, x).cross_entropy(y) * labels
                    counted += labels
                found.append(total / counted.clamp(min=1))
        return torch.stack(found).cpu()


def skill_weights(graph: Tensor, losses: Sequence[Tensor], eta: float) -> Tensor:
    """(k,) p_i ∝ exp(η Σ_j A_ij Σ_w L_wj) over the losses L_w (m,) of the last checks; before any, exp(η Σ_j A_ij).

    Skill-It, arXiv:2307.14430. The weights are not cumulative beyond the window.

    Args:
        graph: A (k, m), a row for each skill that is trained, a column for each that is measured.
        losses: of the checks in the window.
        eta: η.
    """
    window = torch.stack(list(losses)).sum(0) if losses else torch.ones_like(graph[0])
    return (eta * (graph @ window)).softmax(0)


def law_losses(constants: Tensor, graph: Tensor, p: Tensor, slope: float = 1.0) -> Tensor:
    """(m,) the linear dynamic mixing law: L_i = c_i − b Σ_j A_ij p_j.

    Args:
        constants: c (m,).
        graph: A (m, k), a row for each group that is measured.
        p: (k,) the mixture.
        slope: b.
    """
    return constants - slope * graph @ p


def log_linear_losses(constants: Tensor, scales: Tensor, graph: Tensor, p: Tensor) -> Tensor:
    """(m,) the log-linear static mixing law: L_i = c_i + b_i exp(−Σ_j A_ij p_j).

    Args:
        constants, scales: c and b (m,).
        graph: A (m, k).
        p: (k,) the mixture.
    """
    return constants + scales * (-(graph @ p)).exp()


def probe_mixtures(groups: int, focus: float) -> Tensor:
    """(k, k) a mixture for each group: `focus` on itself, what is left over on the others equally."""
    if groups == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    mixtures = torch.full((groups, groups), (1 - focus) / (groups - 1), dtype=torch.float64)
    return mixtures.fill_diagonal_(focus)


def aioli_graph(drops: Tensor, focus: float) -> Tensor:
    """(k, k) A with A · M = D: the law's effects of groups from drops D (k, k).

    Args:
        drops: D_ij, the mean drop of group i's loss while the mixture of group j was trained.
        focus: f, on the diagonal of the mixtures M (`probe_mixtures`), which must not be uniform.
    """
    graph: Tensor = torch.linalg.solve(probe_mixtures(len(drops), focus).to(drops), drops, left=False)
    return graph


def normalised_graph(graph: Tensor) -> Tensor:
    """(k, k) A ≥ 0 with sum 1: its least entry is subtracted where that is negative. Uniform where nothing is left."""
    shifted = graph - graph.min().clamp(max=0)
    total = shifted.sum()
    uniform = torch.full_like(graph, 1 / graph.numel())
    return torch.where(total > 0, shifted / total.clamp(min=torch.finfo(graph.dtype).tiny), uniform)


def aioli_weights(graph: Tensor, eta: float, before: Tensor | None = None) -> Tensor:
    """(k,) p_j ∝ q_j exp(η Σ_i A_ij), with q the mixture before, or uniform.

    Aioli, arXiv:2411.05735.

    Args:
        graph: A (k, k), normalised.
        eta: η.
        before: q (k,); None for a rule that is not cumulative.
    """
    start = torch.zeros_like(graph[0]) if before is None else before.log()
    return (start + eta * graph.sum(0)).softmax(0)
