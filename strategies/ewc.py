"""Elastic Weight Consolidation (EWC).

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, arXiv:1612.00796.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clbench import Batch, Experience, Output, Run, Strategy, chain, register
from clbench.errors import IncompatibleError
from clbench.parts import (
    CrossEntropy,
    Group,
    fisher_of_labels,
    head_rows,
    members_of,
    quadratic_penalty,
    summed_gradients,
)
from clbench.ranges import NotNegative, Share
from clbench.types import IGNORED

Estimator = Literal[
    "sampled", "exact", "empirical", "predicted", "batch", "closer-look", "mammoth", "van-de-ven", "pycil"
]
Tensors = dict[str, Tensor]
OF_LANGUAGE = ("sampled", "empirical", "predicted", "batch", "pycil")
"""Those that take blocks of tokens."""
CLIPPED = 1e-4
"""Largest entry of the Fisher information in PyCIL."""


class Consolidate(Strategy):
    """A quadratic penalty holds each weight near its value after the last experiences, as firmly as it mattered.

    `ewc` is λ/2 · Σ_k Σ_j F_kj (θ_j − θ*_kj)² over the experiences k so far. With `online`, all experiences share one
    anchor, the latest weights, and one Fisher information F ← decay · F + F_k; with the decay "convex",
    F ← α F + (1 − α) F_k, α the share of the classes seen so far that are past ones, and F_k in rows of the head whose
    class is none of these.
    """

    needs = frozenset({"boundaries"})
    state = ("anchors", "fishers", "past")
    parallel = True
    capturable = True
    language = True

    def __init__(
        self,
        strength: float,
        fisher: Estimator,
        online: bool,
        decay: float | Literal["convex"],
        parameters: Group = "all",
    ) -> None:
        self.strength, self.fisher, self.online, self.decay = strength, fisher, online, decay
        self.parameters: Group = parameters
        self.anchors: list[Tensors] = []
        self.fishers: list[Tensors] = []
        self.past: list[int] = []  # classes seen in experiences that have ended

    def setup(self, run: Run) -> None:
        members_of(self.parameters, run.parameters())  # refused now rather than at the first end
        if run.benchmark.setting.language and self.fisher not in OF_LANGUAGE:
            raise IncompatibleError(
                f"ewc.fisher={self.fisher} goes through the classes of one label, and in {run.benchmark.id} a block of "
                f"tokens has a label for each; take one of {', '.join(OF_LANGUAGE)}."
            )
        for exp in run.train if self.fisher == "pycil" and self.strength else ():
            run.foresee(len(exp), run.batch_size_of(exp), "fisher=pycil passes them in training mode")

    def held(self) -> Sequence[Tensors]:
        return self.anchors

    def losses(self, batch: Batch, out: Output) -> Mapping[str, Tensor]:
        if not self.anchors or self.strength == 0:
            return {}
        penalty = quadratic_penalty(self.run.parameters(), self.anchors, self.fishers)
        return {"ewc": self.strength / 2 * penalty}

    def end_experience(self, exp: Experience) -> None:
        if self.strength == 0:
            return
        new = members_of(self.parameters, fisher_information(self.run, exp, self.fisher))
        chosen = members_of(self.parameters, self.run.parameters())
        anchor = {name: p.detach().clone() for name, p in chosen.items()}
        if self.online:
            for old in self.fishers:  # one or none
                new = {name: self._merged(name, old[name], value, exp) for name, value in new.items()}
            self.anchors, self.fishers = [], []
        self.anchors.append(anchor)
        self.fishers.append(new)
        self.past = sorted({*self.past, *exp.classes})

    def _merged(self, name: str, old: Tensor, new: Tensor, exp: Experience) -> Tensor:
        if self.decay != "convex":
            return self.decay * old + new
        share = len(self.past) / len({*self.past, *exp.classes})
        merged = share * old + (1 - share) * new
        past = torch.zeros(self.run.num_classes, dtype=torch.bool, device=new.device)
        past[self.past] = True
        rows = head_rows(name, new, past)
        return merged if rows is None else torch.where(rows, merged, new)


def fisher_information(run: Run, exp: Experience, estimator: Estimator) -> Tensors:
    """Return the diagonal of the Fisher information of the model's class probabilities over an experience, by parameter
    name.

    Only the first two of the estimators estimate it; the others are what code in use computes. In eval mode, on the
    experience's N examples as they are, in batches of B, with cross-entropy ℓ over all classes, unless said otherwise.
    Nothing is left of a pass in training mode in BatchNorm's statistics. Of language, an example is a block of tokens:
    its likelihood is that of all labels that count, each given the tokens before it, and its gradient that of their
    summed logarithms, not of their mean.

    sampled: labels drawn from the model, one gradient per example: 1/N Σ_i g_i², unbiased.
    exact: the expectation over all classes, C gradients per example.
    empirical: the true labels in place of the model's; vanishes as the data is fitted.
    predicted: the likeliest labels.
    batch: the mean over batches of the squared gradient of the batch's mean loss, true labels; shrinks as 1/B
        where examples' gradients are uncorrelated (Avalanche).
    closer-look: the same times each batch's size, of the mean binary cross-entropy of the experience's classes only
        (the code of "A Closer Look at Rehearsal-Free Continual Learning").
    mammoth: Σ_i p_i g_i² / (batches · B) with p_i the probability of the true label, of augmented examples that pass
        one at a time in training mode (`fisher_of_labels`): an incomplete last batch counts as a whole one.
    van-de-ven: `exact` times N / (N − 1): divided by the last index in place of the number of examples.
    pycil: as batch, in training mode, no entry above 10⁻⁴.
    """
    if estimator in ("batch", "closer-look", "pycil"):
        return _of_batches(run, exp, estimator)
    if estimator == "mammoth":
        return fisher_of_labels(run, exp, "ewc/augment")

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return summed_loss(run.mask_tasks(logits, y.new_full((1,), exp.task)), y[None])

    with run.evaluating():
        total = {name: torch.zeros_like(p) for name, p in run.parameters().items()}
        for x, y in run.visit(exp.data):
            for weights, labels in _labels(run, x, y, exp.task, estimator):
                squares = summed_gradients(torch.square, run, loss, x, labels, weights=weights)
                for name, value in squares.items():
                    total[name] += value
    n = max(len(exp.data) - (estimator == "van-de-ven"), 1)
    return {name: value / n for name, value in total.items()}


def _of_batches(run: Run, exp: Experience, estimator: Estimator) -> Tensors:
    """Return the mean of squared gradients of batches' mean losses."""
    local = list(exp.classes)

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        if estimator == "closer-look":
            target = F.one_hot(y, run.num_classes).to(logits.dtype)
            return F.binary_cross_entropy_with_logits(logits[:, local], target[:, local])
        return F.cross_entropy(logits.flatten(0, -2), y.flatten(), ignore_index=IGNORED)

    # In training mode a pass moves BatchNorm's statistics and draws dropout, of which nothing may be left.
    with run.tentatively() if estimator == "pycil" else run.evaluating():
        batches = []
        for x, y in run.visit(exp.data):
            logits = run.forward(x, y.new_full((len(y),), exp.task)).logits
            theta = list(run.parameters().values())
            gradients = torch.autograd.grad(loss(logits, y), theta, materialize_grads=True)
            scale = len(y) if estimator == "closer-look" else 1
            batches.append([scale * g**2 for g in gradients])
    means = [torch.stack(squares).mean(0) for squares in zip(*batches, strict=True)]
    if estimator == "pycil":
        means = [value.clamp(max=CLIPPED) for value in means]
    return dict(zip(run.parameters(), means, strict=True))


def summed_loss(logits: Tensor, y: Tensor) -> Tensor:
    """() −ln p of an example's label y (1,), given logits (1, C), or of all its labels (1, L), given (1, L, V)."""
    return F.cross_entropy(logits.flatten(0, -2), y.flatten(), ignore_index=IGNORED, reduction="sum")


def _labels(run: Run, x: Tensor, y: Tensor, task: int, estimator: Estimator) -> list[tuple[Tensor, Tensor]]:
    """Weights (B,) and labels (B,) whose weighted squared gradients add up to the estimate."""
    one = torch.ones(len(x), device=x.device)
    if estimator == "empirical":
        return [(one, y)]
    with torch.no_grad():
        probabilities = run.forward(x, y.new_full((len(y),), task)).logits.softmax(-1)  # (B, C)
    if estimator == "predicted":
        return [(one, probabilities.argmax(-1).where(y != IGNORED, IGNORED))]
    if estimator == "sampled":
        flat = probabilities.flatten(0, -2)
        drawn = torch.multinomial(flat, 1, generator=run.rng("fisher")).view(y.shape)
        return [(one, drawn.where(y != IGNORED, IGNORED))]
    return [(probabilities[:, label], torch.full_like(y, label)) for label in range(run.num_classes)]


@register("ewc", family="regularisation", version=2, paper="arXiv:1612.00796", null={"strength": 0.0})
def ewc(
    strength: NotNegative = 3.0,
    fisher: Estimator = "sampled",
    online: bool = False,
    decay: Share | Literal["convex"] = 1.0,
    parameters: Group = "all",
) -> Strategy:
    """Elastic Weight Consolidation: weights that mattered for past experiences are held near their values then.

    L = CE(stream) + λ/2 · Σ_k Σ_j F_kj (θ_j − θ*_kj)², F the diagonal of the Fisher information after experience k.

    Args:
        strength: λ; no number fits all estimates of F. Plain gradient descent diverges above 2 / (learning rate ·
            largest entry of F); at the default it does not on digits and MNIST, with the settings that come with them.
        fisher: how F is estimated: labels sampled from the model (unbiased), the exact expectation, the true labels
            (empirical), or as one of the libraries in use computes it; `fisher_information` tells them apart. Those
            that square batch means depend on the batch size.
        online: one penalty around the latest weights, with F ← decay · F + F_k, in place of one for each experience
            (Schwarz et al. 2018, arXiv:1805.06370).
        decay: how the online form forgets; "convex" is F ← α F + (1 − α) F_k, α the share of past classes among those
            seen; in rows of the head whose class is no past one, F ← F_k.
        parameters: which weights are held: all; encoder, all but the head; qkv, those of a timm transformer; head.

    Other conventions: without the ½, as in "A Closer Look at Rehearsal-Free Continual Learning" (arXiv:2203.17269, with
    fisher=closer-look, online=true), in Avalanche and in Mammoth, the coefficient μ is strength = 2 μ; PyCIL's is
    strength=1000 with fisher=pycil, online=true, decay=convex. Those whose head grows: chain `+growing-head`.

    Reference: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017,
    arXiv:1612.00796.

    Differences from the paper:
        1. Of language, a block of tokens is one example, and the gradient that is squared is that of the summed
           log-likelihood of its tokens: F grows with a block's length, and λ must shrink with it.
        2. The head is shared by all experiences and is part of the penalty, as everything trainable is: rows of classes
           still to come, too, whose outputs compete from the start, unless the head grows.
        3. What fisher=mammoth and fisher=pycil do in training mode leaves BatchNorm's statistics alone; in Mammoth and
           PyCIL these move. Without dropout, as passes of single examples are computed at once.
    """
    return chain(CrossEntropy(), Consolidate(strength, fisher, online, decay, parameters))
