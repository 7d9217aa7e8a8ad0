"""Elastic Weight Consolidation (EWC).

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, arXiv:1612.00796.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Strategy, chain, register
from clbench.parts import CrossEntropy, quadratic_penalty, squared_gradients

if TYPE_CHECKING:
    from clbench.engine import Run

Estimator = Literal["sampled", "empirical", "exact", "batch"]
Tensors = dict[str, Tensor]


class Consolidate(Strategy):
    """A quadratic penalty holds each weight near its value after the last experiences, as firmly as it mattered.

    `ewc` is λ/2 · Σ_k Σ_j F_kj (θ_j − θ*_kj)² over the experiences k so far. With `online`, all experiences share one
    anchor, the latest weights, and one Fisher information F ← decay · F + F_k.
    """

    needs = frozenset({"boundaries"})
    state = ("anchors", "fishers")

    def __init__(self, strength: float, fisher: Estimator, online: bool, decay: float) -> None:
        self.strength, self.fisher, self.online, self.decay = strength, fisher, online, decay
        self.anchors: list[Tensors] = []
        self.fishers: list[Tensors] = []

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if not self.anchors or self.strength == 0:
            return {}
        penalty = quadratic_penalty(self.run.parameters(), self.anchors, self.fishers)
        return {"ewc": self.strength / 2 * penalty}

    def end_experience(self, exp: Experience) -> None:
        if self.strength == 0:
            return
        with self.run.evaluating():
            new = fisher_information(self.run, exp, self.fisher)
        anchor = {name: p.detach().clone() for name, p in self.run.parameters().items()}
        if self.online and self.fishers:
            new = {name: self.decay * self.fishers[0][name] + value for name, value in new.items()}
        if self.online:
            self.anchors, self.fishers = [anchor], [new]
        else:
            self.anchors.append(anchor)
            self.fishers.append(new)


def fisher_information(run: Run, exp: Experience, estimator: Estimator) -> Tensors:
    """The diagonal of the Fisher information of the model's class probabilities over an experience, by parameter name.

    sampled: labels drawn from the model, one gradient per example: unbiased.
    exact: the expectation over all classes, C gradients per example.
    empirical: the true labels in place of the model's; vanishes as the data is fitted.
    batch: the squared gradient of each batch's mean loss with the true labels; shrinks as 1 / batch size.
    """
    if estimator == "batch":
        batches = [_squares(run, _batch_gradient(run, x, y, exp.task)) for x, y in run.visit(exp.data)]
        return {name: torch.stack([b[name] for b in batches]).mean(0) for name in batches[0]}
    total = {name: torch.zeros_like(p) for name, p in run.parameters().items()}
    for x, y in run.visit(exp.data):
        for weights, labels in _labels(run, x, y, exp.task, estimator):
            for name, value in _per_example(run, x, labels, weights, exp.task).items():
                total[name] += value
    return {name: value / len(exp.data) for name, value in total.items()}


def _labels(
    run: Run, x: Tensor, y: Tensor, task: int, estimator: Estimator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights (B,) and labels (B,) whose weighted squared gradients add up to the estimate."""
    one = torch.ones(len(x), device=x.device)
    if estimator == "empirical":
        yield one, y
        return
    with torch.no_grad():
        probabilities = run.forward(x, torch.full_like(y, task)).logits.softmax(1)  # (B, C)
    if estimator == "sampled":
        yield one, torch.multinomial(probabilities, 1, generator=run.rng("fisher")).squeeze(1)
        return
    for label in range(run.num_classes):
        yield probabilities[:, label], torch.full_like(y, label)


def _per_example(run: Run, x: Tensor, y: Tensor, weights: Tensor, task: int) -> Tensors:
    """Σ_b w_b (∂ℓ_b/∂θ)² for each parameter."""

    def loss(logits: Tensor, y1: Tensor) -> Tensor:
        return F.cross_entropy(run.mask_tasks(logits, torch.full_like(y1[None], task)), y1[None])

    return squared_gradients(run, loss, x, y, weights=weights)


def _batch_gradient(run: Run, x: Tensor, y: Tensor, task: int) -> tuple[Tensor, ...]:
    logits = run.forward(x, torch.full_like(y, task)).logits
    return torch.autograd.grad(F.cross_entropy(logits, y), list(run.parameters().values()), allow_unused=True)


def _squares(run: Run, gradients: tuple[Tensor | None, ...]) -> Tensors:
    named = zip(run.parameters().items(), gradients, strict=True)
    return {name: torch.zeros_like(p) if g is None else g.detach() ** 2 for (name, p), g in named}


@register("ewc", paper="arXiv:1612.00796", null={"strength": 0.0})
def ewc(
    strength: float = 100.0, fisher: Estimator = "sampled", online: bool = False, decay: float = 1.0
) -> Strategy:
    """Elastic Weight Consolidation: weights that mattered for past experiences are held near their values then.

    L = CE(stream) + λ/2 · Σ_k Σ_j F_kj (θ_j − θ*_kj)², F the diagonal of the Fisher information after experience k.

    Args:
        strength: λ.
        fisher: how F is estimated: labels sampled from the model (unbiased), the exact expectation, the true labels
            (empirical), or the squared gradient of batch means, which several libraries compute.
        online: one penalty around the latest weights, with F ← decay · F + F_k, in place of one for each experience
            (Schwarz et al. 2018, arXiv:1805.06370).
        decay: of the online form.

    Reference: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017,
    arXiv:1612.00796.

    Differences from the paper:
        1. The head is shared by all experiences and is part of the penalty, as everything trainable is.
    """
    return chain(CrossEntropy(), Consolidate(strength, fisher, online, decay))
