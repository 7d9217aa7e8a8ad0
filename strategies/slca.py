"""SLCA: a slow learner, whose encoder learns at a fraction of the head's rate, and alignment of the classifier.

Zhang, Wang, Kang, Chen, Wei, "SLCA: Slow Learner with Classifier Alignment for Continual Learning on a Pre-trained
Model", ICCV 2023, arXiv:2303.05118.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Run, Strategy, register
from clbench.parts import CrossEntropy, features_of, linear_weight, members_of, refuse_steps, scale_rate
from clbench.ranges import Count, Natural, Positive
from clbench.types import HIDDEN, MASKED

JITTER = 1e-4
"""Added to variances, so that a class of fewer examples than features can be drawn from."""


def aligned_logits(logits: Tensor, experience_of: Tensor, temperature: float) -> Tensor:
    """(B, C) logits of seen classes by τ n̄, n̄ (B, 1) the mean norm of each experience's; others `MASKED`.

    Args:
        experience_of: (C,) the experience that each class came in; −1 for those that have not come.
    """
    came = experience_of[experience_of >= 0].unique()  # an experience may bring no class of its own
    norms = [logits[:, experience_of == t].norm(dim=1) + 1e-7 for t in came]
    scale = temperature * torch.stack(norms, 1).mean(1, keepdim=True)
    return (logits / scale).masked_fill(experience_of < 0, MASKED)


class SlowLearner(Strategy):
    """Learns the present classes among themselves, the encoder slowly, and aligns a copy of the head at the end.

    Args:
        slow: factor on the encoder's learning rate.
        align: passes of the alignment; 0 for none. draws: features of each class in a pass.
        temperature: τ. lr: the head's rate in the alignment, at its start.
    """

    needs = frozenset({"boundaries"})
    replaces = (CrossEntropy,)
    state = ("experience_of", "means", "factors", "head", "aligned", "before")
    parallel = True

    def __init__(self, slow: float, align: int, draws: int, temperature: float, lr: float) -> None:
        self.slow, self.align, self.draws, self.temperature, self.lr = slow, align, draws, temperature, lr

    def wrap(self, model: nn.Module) -> nn.Module:
        for parameter in members_of("encoder", dict(model.named_parameters())).values():
            scale_rate(parameter, self.slow)
        return model

    def setup(self, run: Run) -> None:
        linear_weight(run.model, self)  # a head without weights, or with fixed ones, cannot be aligned
        refuse_steps(run, self)
        size = int(run.model.feature_size)  # type: ignore[arg-type]
        self.experience_of = torch.full((run.num_classes,), -1, device=run.device)
        table = torch.zeros((len(run.train), run.num_classes), dtype=torch.bool)
        for exp in run.train:
            table[exp.index, list(exp.classes)] = True
        self.classes_of = table.to(run.device)
        self.means = torch.zeros(run.num_classes, size, device=run.device)
        self.factors = torch.zeros(run.num_classes, size, size, device=run.device)  # L of Σ = L Lᵀ
        self.head = self._head()  # that predicts once it is aligned
        self.before = self._head()  # as it was when the experience began
        self.aligned = False
        self.aligning = False

    def _head(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.run.model.head.named_parameters()}  # type: ignore[union-attr]

    def _put(self, head: Mapping[str, Tensor], rows: Tensor | None = None) -> None:
        """Write weights into the head: all, or these rows (C,) bool."""
        with torch.no_grad():
            for name, parameter in self.run.model.head.named_parameters():  # type: ignore[union-attr]
                if rows is None:
                    parameter.copy_(head[name])
                else:
                    chosen = rows.view(-1, *[1] * (parameter.ndim - 1))
                    parameter.copy_(torch.where(chosen, head[name], parameter))

    def begin_experience(self, exp: Experience) -> None:
        self.aligned = False
        self.before = self._head()
        fresh = [c for c in exp.classes if self.experience_of[c] < 0]
        self.experience_of[fresh] = exp.index

    @property
    def _present(self) -> Tensor:
        """(C,) bool, the classes of the present experience."""
        return self.classes_of[self.run.experience]

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if self.aligning:
            logits = aligned_logits(out.logits, self.experience_of, self.temperature)
            return {"align": F.cross_entropy(logits, batch.y)}
        return {"fit": F.cross_entropy(out.logits.masked_fill(~self._present, MASKED), batch.y)}

    def after_update(self) -> None:
        if not self.aligning:  # rows of other classes have no gradient, but may decay
            self._put(self.before, ~self._present)

    def end_experience(self, exp: Experience) -> None:
        features, y = features_of(self.run, exp.data)
        for c in y.unique().tolist():
            own = features[y == c].double()
            self.means[c] = own.mean(0)
            centred = own - own.mean(0)
            covariance = centred.T @ centred / max(len(own) - 1, 1)
            covariance.diagonal().add_(JITTER)
            self.factors[c] = torch.linalg.cholesky(covariance)
        if exp.index == 0 or self.align == 0:
            return
        kept = self._head()
        self.aligning = True
        try:
            self.run.optimise(
                self._drawn, self.align, self._rate, features=True, momentum=0.9, weight_decay=5e-4
            )
        finally:
            self.aligning = False
        self.head, self.aligned = self._head(), True
        self._put(kept)

    def _rate(self, epoch: int) -> float:
        return self.lr * 0.5 * (1 + math.cos(math.pi * epoch / self.align))

    def _drawn(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Features of all seen classes, drawn anew: N(s μ, Σ), s = 0.9 + 0.1 (t + 1) / (T + 1) in experience T."""
        rng, seen = self.run.rng("alignment"), (self.experience_of >= 0).nonzero().squeeze(1)
        came = self.experience_of[seen]
        scale = 0.9 + 0.1 * (came + 1) / (self.run.experience + 1)  # (c,)
        shape = (len(seen), self.draws, self.means.shape[1])
        noise = torch.randn(shape, generator=rng, device=self.means.device)
        x = (scale.unsqueeze(1) * self.means[seen]).unsqueeze(1) + noise @ self.factors[seen].transpose(1, 2)
        y = seen.repeat_interleave(self.draws)
        order = torch.randperm(len(y), generator=rng, device=y.device)
        for rows in order.split(self.draws):
            yield x.flatten(0, 1)[rows], y[rows], torch.full_like(rows, HIDDEN)

    def logits(self, x: Tensor, task: Tensor) -> Tensor:
        out = self.run.forward(x, task)
        if not self.aligned:
            return out.logits
        scores: Tensor = functional_call(self.run.model.head, self.head, out.features)  # type: ignore[arg-type]
        return self.run.mask_tasks(scores.masked_fill(self.experience_of < 0, MASKED), task)


@register("slca", family="fixed features", paper="arXiv:2303.05118", tiny={"draws": 16})
def slca(
    slow: Positive = 0.01,
    align: Natural = 5,
    draws: Count = 256,
    temperature: Positive = 0.1,
    lr: Positive = 0.01,
) -> Strategy:
    """SLCA: the encoder learns a hundred times slower than the head, which is aligned on draws from class statistics.

    Each experience's classes are learned among themselves. At its end, a Gaussian is kept of the features of each of
    its classes, and a copy of the head learns from draws of all classes; that copy predicts, and the head goes on.

    Args:
        slow: factor on the encoder's learning rate; the head has the run's.
        align: passes of the alignment; 0 leaves the slow learner alone.
        draws: features of each class in a pass, and in a batch of it.
        temperature: τ, by which logits are divided beside their mean norm.
        lr: learning rate of the alignment, which falls along a cosine from pass to pass.

    Reference: Zhang, Wang, Kang, Chen, Wei, "SLCA: Slow Learner with Classifier Alignment for Continual Learning on a
    Pre-trained Model", ICCV 2023, arXiv:2303.05118.

    Differences from the authors' code:
        1. Until an experience ends, the head as it is predicts; the aligned one does at its end.
        2. A class that comes again keeps its experience, and its statistics become those of its last examples.
    """
    return SlowLearner(slow, align, draws, temperature, lr)
